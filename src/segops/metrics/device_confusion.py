"""The confusion matrix of masks that are tensors on a device, counted there.

The counts are those of :func:`segops.metrics.confusion.confusion_matrix`, exactly. Nothing waits
for the device and nothing leaves it until the counts are asked for; so an id that is no class is
found only then.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segops.runtime.classes import VOID

_TABLES = 64
"""Tables that a graphics card counts into in turn: neighbouring pixels mostly have the same pair of
ids, and would wait for each other at one counter."""


class DeviceConfusion:
    """Counts pairs of masks on their device.

    Raises:
        ValueError: `classes` is not 1 to 255.
    """

    def __init__(self, classes: int) -> None:
        if not 1 <= classes <= VOID:
            raise ValueError(f"classes is {classes}; expected 1 to {VOID}")
        self.classes = classes
        self._counts: list[Tensor] = []
        # Rows: void, the classes, what is neither. Columns: the classes, what is none.
        self._shape = (classes + 2, classes + 1)

    def add(self, truth: Tensor, prediction: Tensor) -> None:
        """Count one image, or a batch of them.

        Args:
            truth: uint8 (H, W) or (N, H, W): ids below `classes`, or 255 for void.
            prediction: uint8 of the same shape on the same device: ids below `classes`.

        Raises:
            ValueError: Shapes, types or devices are other than said.
        """
        _check(truth, prediction)
        if truth.ndim == 2:
            truth, prediction = truth[None], prediction[None]
        # Adding 1 in uint8 turns void into 0 and class i into i + 1.
        rows = (truth + 1).clamp_(max=min(self.classes + 1, VOID))
        columns = prediction.clamp(max=self._shape[1] - 1)
        pairs = rows.to(torch.int64).mul_(self._shape[1]).add_(columns).flatten(1)
        self._counts.append(count_rows(pairs, self._shape[0] * self._shape[1]))

    def fetch(self) -> NDArray[np.int64]:
        """Fetch the matrices of the images since the last fetch, in the order they were added.

        Returns:
            int64 of shape (images, classes, classes): rows are truth, columns are prediction, void
            is left out.

        Raises:
            ValueError: A mask held an id that is no class. The counts are given up.
        """
        if not self._counts:
            return np.zeros((0, self.classes, self.classes), np.int64)
        counts, self._counts = torch.cat(self._counts).cpu().numpy(), []
        counts = counts.reshape(-1, *self._shape)
        if counts[:, :, -1].any():
            raise ValueError(
                f"prediction holds an id that is no class; expected ids below {self.classes}"
            )
        if counts[:, -1].any():
            raise ValueError(
                f"truth holds an id that is no class; expected ids below {self.classes} or "
                f"{VOID} for void"
            )
        return np.ascontiguousarray(counts[:, 1:-1, :-1])


def _check(truth: Tensor, prediction: Tensor) -> None:
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.dtype != torch.uint8 or mask.ndim not in (2, 3):
            raise ValueError(
                f"{name} is {mask.dtype} of shape {tuple(mask.shape)}; expected uint8 of shape "
                "(H, W) or (N, H, W)"
            )
    if truth.shape != prediction.shape or truth.device != prediction.device:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} on {prediction.device}, truth "
            f"{tuple(truth.shape)} on {truth.device}; expected the same"
        )


def count_rows(values: Tensor, cells: int, tables: int | None = None) -> Tensor:
    """How often each number occurs in each row.

    Args:
        values: int64 (rows, n) of numbers below `cells`; overwritten.
        cells: How many numbers there are.
        tables: Tables a row that are counted into in turn; as suits the device if not given.

    Returns:
        int64 (rows, cells) on the same device.
    """
    rows, length = values.shape
    tables = tables or (_TABLES if values.is_cuda else 1)
    values.add_(torch.arange(rows, device=values.device)[:, None] * (tables * cells))
    if tables > 1:
        values.add_(torch.arange(length, device=values.device) % tables * cells)
    places, size = values.flatten(), rows * tables * cells
    if values.is_cuda or tables > 1:
        # Not torch.bincount, which makes the processor wait for the graphics card.
        counts = torch.zeros(size, dtype=torch.int64, device=values.device)
        one = torch.ones((), dtype=torch.int64, device=values.device)
        counts.scatter_add_(0, places, one.expand(places.numel()))
    else:
        counts = torch.bincount(places, minlength=size)
    return counts.view(rows, tables, cells).sum(dim=1)
