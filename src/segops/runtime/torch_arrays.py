"""How torch does the operations on arrays that a prediction takes; see :class:`.arrays.Arrays`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional

from .arrays import rows_at_once

_TYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float32): torch.float32}


class TorchArrays:
    """The operations in torch, on one device; nothing else leaves it than what is fetched."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def send(self, values: NDArray[Any]) -> Tensor:
        """As :meth:`.arrays.Arrays.send`."""
        return torch.from_numpy(values).to(self.device)

    def fetch(self, values: Tensor) -> NDArray[Any]:
        """As :meth:`.arrays.Arrays.fetch`."""
        found: NDArray[Any] = values.cpu().numpy()
        return found

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Tensor:
        """As :meth:`.arrays.Arrays.empty`."""
        return torch.empty(tuple(shape), dtype=_TYPES[np.dtype(dtype)], device=self.device)

    def zeros(self, shape: Sequence[int]) -> Tensor:
        """As :meth:`.arrays.Arrays.zeros`."""
        return torch.zeros(tuple(shape), device=self.device)

    def resize(self, values: Tensor, size: Sequence[int]) -> Tensor:
        """As :meth:`.arrays.Arrays.resize`."""
        return functional.interpolate(
            values.float(), list(size), mode="bilinear", align_corners=False
        )

    def mirror(self, values: Tensor) -> Tensor:
        """As :meth:`.arrays.Arrays.mirror`."""
        return values.flip(-1)

    def softmax(self, logits: Tensor) -> Tensor:
        """As :meth:`.arrays.Arrays.softmax`."""
        return logits.softmax(dim=0)

    def largest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`.arrays.Arrays.largest`."""
        top, ids = values.max(dim=0)
        return top, ids

    def top_probability(self, logits: Tensor, top: Tensor) -> Tensor:
        """As :meth:`.arrays.Arrays.top_probability`."""
        rows = len(top)
        if logits.device.type == "cpu":
            rows = rows_at_once(rows, len(logits) * top.shape[1])
        sums = torch.empty_like(top)
        for start in range(0, len(top), rows):
            part = slice(start, start + rows)
            torch.sum((logits[:, part] - top[part]).exp_(), dim=0, out=sums[part])
        return sums.reciprocal_()

    def total(self, values: Tensor) -> Tensor:
        """As :meth:`.arrays.Arrays.total`."""
        return values.sum(dtype=torch.float64)

    def all_finite(self, values: Tensor) -> bool:
        """As :meth:`.arrays.Arrays.all_finite`."""
        return bool(values.isfinite().all())
