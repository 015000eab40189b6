"""The operations on arrays that a prediction takes, and how NumPy does them.

The rule of prediction (:mod:`.predictor`, :mod:`.inference`, :mod:`.windows`) is written once, for
the arrays of NumPy and of torch alike. What both spell alike stands in the rule: indexing,
`swapaxes`, `shape`, `+=`, `*=`, `/=`. What they spell differently is a method of :class:`Arrays`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CACHED_LOGITS = 300_000
"""Logits processed at a time: 1.2 MB, which fits into a cache."""


class Arrays(Protocol):
    """The operations of a library of arrays; C are the classes."""

    def send(self, values: NDArray[Any]) -> Any:
        """The values as an array of the library, on its device; they may share memory."""

    def fetch(self, values: Any) -> NDArray[Any]:
        """An array of the library as one of NumPy."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        """An array whose values are not set."""

    def zeros(self, shape: Sequence[int]) -> Any:
        """A float32 array of zeros."""

    def resize(self, values: Any, size: Sequence[int]) -> Any:
        """(1, N, h, w) resized bilinearly to float32 (1, N, *size), without smoothing.

        Pixel centres lie at half, and the border is repeated beyond the outermost centres.
        """

    def mirror(self, values: Any) -> Any:
        """The values mirrored along the last axis."""

    def softmax(self, logits: Any) -> Any:
        """Probabilities of logits float32 (C, h, w), an array of its own."""

    def largest(self, values: Any) -> tuple[Any, Any]:
        """The largest of (C, h, w) over C, and the first id that has it; NaN if any is NaN."""

    def top_probability(self, logits: Any, top: Any) -> Any:
        """The softmax probability (h, w) of the largest of the logits (C, h, w), which is `top`."""

    def total(self, values: Any) -> Any:
        """The sum of all values, in float64."""

    def all_finite(self, values: Any) -> bool:
        """Whether no value is infinite or NaN."""


def as_batch(pixels: Any) -> Any:
    """The pixels (H, W, B) of an image as a batch (1, B, H, W) that shares their memory."""
    return pixels.swapaxes(0, 2).swapaxes(1, 2)[None]


def rows_at_once(rows: int, logits_a_row: int) -> int:
    """How many rows of an image's logits a CPU processes at a time, so that caches hold them."""
    return min(rows, max(1, _CACHED_LOGITS // logits_a_row))


class NumpyArrays:
    """The operations in NumPy; see :class:`Arrays`."""

    def send(self, values: NDArray[Any]) -> NDArray[Any]:
        """As :meth:`Arrays.send`: the same array."""
        return values

    def fetch(self, values: NDArray[Any]) -> NDArray[Any]:
        """As :meth:`Arrays.fetch`: the same array."""
        return values

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """As :meth:`Arrays.empty`."""
        return np.empty(shape, dtype)

    def zeros(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """As :meth:`Arrays.zeros`."""
        return np.zeros(shape, np.float32)

    def resize(self, values: NDArray[Any], size: Sequence[int]) -> NDArray[np.float32]:
        """As :meth:`Arrays.resize`."""
        found = values.astype(np.float32)
        for axis, length in ((2, size[0]), (3, size[1])):
            if found.shape[axis] != length:
                found = _resized_along(found, axis, length)
        return found

    def mirror(self, values: NDArray[Any]) -> NDArray[Any]:
        """As :meth:`Arrays.mirror`."""
        return values[..., ::-1]

    def softmax(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """As :meth:`Arrays.softmax`."""
        with np.errstate(invalid="ignore"):  # infinity less infinity; the sum is checked
            powers: NDArray[np.float32] = logits - logits.max(axis=0)
            np.exp(powers, out=powers)
            powers /= powers.sum(axis=0)
        return powers

    def largest(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """As :meth:`Arrays.largest`; class by class, because `argmax` over C is slow."""
        top = values[0].copy()
        ids = np.zeros(top.shape, np.uint8)
        for number, one in enumerate(values[1:], start=1):
            np.copyto(ids, np.uint8(number), where=one > top)
            np.maximum(top, one, out=top)
        return top, ids

    def top_probability(
        self, logits: NDArray[np.float32], top: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """As :meth:`Arrays.top_probability`."""
        sums = np.empty_like(top)
        rows = rows_at_once(len(top), len(logits) * top.shape[1])
        for start in range(0, len(top), rows):
            part = slice(start, start + rows)
            np.sum(np.exp(logits[:, part] - top[part]), axis=0, out=sums[part])
        return np.reciprocal(sums, out=sums)

    def total(self, values: NDArray[np.float32]) -> np.float64:
        """As :meth:`Arrays.total`."""
        return np.sum(values, dtype=np.float64)

    def all_finite(self, values: NDArray[np.float32]) -> bool:
        """As :meth:`Arrays.all_finite`."""
        return bool(np.isfinite(values).all())


def _resized_along(values: NDArray[np.float32], axis: int, length: int) -> NDArray[np.float32]:
    have = values.shape[axis]
    place = np.maximum((np.arange(length) + 0.5) * (have / length) - 0.5, 0)
    low = np.minimum(place.astype(np.int64), have - 1)
    high = np.minimum(low + 1, have - 1)
    share = (place - low).astype(np.float32).reshape(-1, *[1] * (3 - axis))
    found: NDArray[np.float32] = values.take(low, axis)
    difference = values.take(high, axis)
    with np.errstate(invalid="ignore"):  # infinity less infinity; what comes of it is checked
        difference -= found
        difference *= share
        found += difference
    return found
