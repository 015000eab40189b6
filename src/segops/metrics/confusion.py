"""The confusion matrix of two masks.

Masks are made of areas, so their pixels come in runs of one pair of ids. Only where a run ends is
looked at, and its length counted; speckled masks have too many runs for that to pay, and go through
OpenCV's histogram, pixel by pixel. Both give the same whole numbers.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.voc.classes import VOID

IDS = 256
EXACT_PIXELS = 2**20
"""Pixels that are counted at a time: bounds the memory that counting takes, and stays below 2**24,
up to which ``cv2.calcHist`` is exact (it counts in integers and hands them out as float32)."""
_WORD = 8
_WORDS_A_RUN = 3
"""Words of 8 pixels for one that holds the end of a run, from which on counting runs is the faster
way; measured at 500x375."""


def confusion_matrix(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Count how often each class of the truth was predicted as each class.

    Pixels whose truth is void (255) count nowhere. Matrices of several images add up.

    Args:
        truth: uint8 of shape (H, W): ids below `classes`, or 255 for void.
        prediction: uint8 of shape (H, W): ids below `classes`; void cannot be predicted.
        classes: Number of classes, 1 to 255.

    Returns:
        int64 of shape (classes, classes): rows are truth, columns are prediction.

    Raises:
        ValueError: Shapes or types are other than said, or an id is no class.
    """
    if not 1 <= classes <= VOID:
        raise ValueError(f"classes is {classes}; expected 1 to {VOID}")
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise ValueError(
                f"{name} is {mask.dtype} of shape {mask.shape}; expected uint8 of shape (H, W)"
            )
    if truth.shape != prediction.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape}, truth {truth.shape}; "
            "predict at the size of the ground truth"
        )
    counts = joint_histogram(truth, prediction, classes)
    if counts is None or counts[:, 0].any():
        raise ValueError(_illegal(truth, prediction, classes))
    return counts[1:, 1:]


def joint_histogram(
    first: NDArray[np.uint8], second: NDArray[np.uint8], classes: int
) -> NDArray[np.int64] | None:
    """Count the pixels by their pair of ids.

    Args:
        first: uint8 of shape (H, W).
        second: uint8 of the same shape.
        classes: Number of classes, 1 to 255.

    Returns:
        int64 of shape (classes + 1, classes + 1): rows are ids of `first`, columns of `second`.
        Index 0 is void (255), `i + 1` is class `i`. None if there is an id that is neither.
    """
    one, other = first.reshape(-1), second.reshape(-1)  # copies only what is not contiguous
    if 0 < one.size <= EXACT_PIXELS:
        return _count(one, other, classes)
    total = np.zeros((classes + 1, classes + 1), np.int64)
    for start in range(0, one.size, EXACT_PIXELS):
        part = slice(start, start + EXACT_PIXELS)
        counts = _count(one[part], other[part], classes)
        if counts is None:
            return None
        total += counts
    return total


def _count(
    first: NDArray[np.uint8], second: NDArray[np.uint8], classes: int
) -> NDArray[np.int64] | None:
    """As :func:`joint_histogram`, of flat arrays of 1 to EXACT_PIXELS."""
    pixels = first.size
    last = np.empty(-(-pixels // _WORD) * _WORD, np.uint8)  # not 0 where a run ends
    changes, other = last[: pixels - 1], np.empty(pixels - 1, np.uint8)
    np.bitwise_xor(first[1:], first[:-1], out=changes)
    np.bitwise_xor(second[1:], second[:-1], out=other)
    np.bitwise_or(changes, other, out=changes)
    last[pixels - 1] = 1
    last[pixels:] = 0
    # Most words are 0: to look for ends in the others alone is twice as fast as in all of `last`.
    words = last.view(np.uint64)
    places = (words != 0).nonzero()[0]
    if places.size * _WORDS_A_RUN > words.size:
        return _count_pixels(first, second, classes)
    ends = (words.take(places).view(np.uint8) != 0).nonzero()[0]
    # End e is byte e % 8 of the word at places[e // 8].
    places -= np.arange(places.size)
    places <<= 3
    ends += places.take(ends >> 3)
    row, column = _indices(classes)
    pair = row.take(first.take(ends))
    pair += column.take(second.take(ends))
    lengths = np.empty_like(ends)
    lengths[0] = ends[0] + 1
    np.subtract(ends[1:], ends[:-1], out=lengths[1:])
    cells = (classes + 1) ** 2
    # The lengths are added up in float64, exact up to 2**53.
    counts = np.bincount(pair, lengths, minlength=cells)
    if counts.size > cells:
        return None
    return counts.astype(np.int64).reshape(classes + 1, classes + 1)


@lru_cache(maxsize=16)
def _indices(classes: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """By id, what it adds to the place of its pair in the flat matrix: as a row, as a column.

    Void comes first, class i is i + 1; with an id that is neither, the place is beyond the matrix.
    """
    side = classes + 1
    place = np.full(256, side * side, np.intp)
    place[:classes] = np.arange(1, side)
    place[VOID] = 0
    row = place.copy()
    row[:classes] *= side
    return row, place


def _count_pixels(
    first: NDArray[np.uint8], second: NDArray[np.uint8], classes: int
) -> NDArray[np.int64] | None:
    # All 256 ids: a size that is a power of two is the fastest here.
    pair = [first[None], second[None]]
    every = cv2.calcHist(pair, [0, 1], None, [IDS, IDS], [0, IDS, 0, IDS])
    legal = np.arange(-1, classes)  # void is last of the 256, and first here
    counts = np.asarray(every[np.ix_(legal, legal)], np.int64)
    return counts if counts.sum() == first.size else None


def _illegal(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> str:
    """What is wrong with masks that hold an id they may not."""
    if (highest := int(prediction.max())) >= classes:
        return f"prediction holds id {highest}; expected ids below {classes}"
    illegal = [int(one) for one in np.unique(truth) if classes <= one < VOID]
    ids = ", ".join(str(one) for one in illegal)
    return f"truth holds id {ids}; expected ids below {classes} or {VOID} for void"
