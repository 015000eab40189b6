"""Losses over the counted pixels of a batch; void (255) counts in none.

All take logits of shape (N, C, H, W), any float dtype, and a target of shape (N, H, W), uint8 or
int64, with ids in 0..C-1 or 255, and return a float32 scalar. They compute in float32 under
autocast. A batch that is all void gives 0 with zero gradient.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import SegopsError
from ..voc.classes import VOID

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, averaged over the counted pixels of the batch."""
    with torch.autocast(logits.device.type, enabled=False):
        return _cross_entropy(*_pixels(logits, target))


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss, averaged over the classes that occur in the batch's truth.

    For class c with probabilities p and truth g (0 or 1) over all counted pixels of the batch,
    Dice is 2 Σpg / (Σp² + Σg²); the loss is 1 minus its mean over the classes with Σg > 0. A class
    that the batch does not show has no say: its Dice would be 0 however small p is.

    Source:
        Milletari, Navab, Ahmadi: V-Net, 3DV 2016, section 3 (two classes there, with squares in
        the denominator as here).
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _dice(*_pixels(logits, target))


def cross_entropy_and_dice(logits: Tensor, target: Tensor) -> Tensor:
    """The plain sum of :func:`cross_entropy` and :func:`dice`."""
    with torch.autocast(logits.device.type, enabled=False):
        pixels = _pixels(logits, target)
        return _cross_entropy(*pixels) + _dice(*pixels)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "cross_entropy+dice": cross_entropy_and_dice,
}


def build_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        SegopsError: There is none.
    """
    if name not in LOSSES:
        close = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise SegopsError(f"train.loss: no loss {name!r}; expected {', '.join(LOSSES)}.{hint}")
    return LOSSES[name]


def _pixels(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    # One row per pixel: a view where logits are channels-last, and the one-dimensional
    # cross-entropy has a deterministic kernel on CUDA, which the two-dimensional has not.
    classes = logits.shape[1]
    return logits.float().permute(0, 2, 3, 1).reshape(-1, classes), target.reshape(-1)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    total = functional.cross_entropy(logits, target.long(), ignore_index=VOID, reduction="sum")
    return total / (target != VOID).sum().clamp(min=1)


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    probabilities = logits.softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=target.device, dtype=target.dtype)
    truth = target[:, None] == classes  # all False on void: 255 never becomes an index
    counted = (target != VOID)[:, None]
    intersection = torch.where(truth, probabilities, 0).sum(dim=0)
    squares = torch.where(counted, probabilities.square(), 0).sum(dim=0)
    pixels = truth.sum(dim=0)
    present = pixels > 0
    score = torch.where(present, 2 * intersection / (squares + pixels).clamp(min=1e-12), 0)
    return (present.sum() - score.sum()) / present.sum().clamp(min=1)
