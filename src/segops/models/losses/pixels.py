"""The pixels of a batch, as all losses see them."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from segops.runtime.classes import VOID


class Pixels:
    """Logits and labels, one row per pixel; what several losses share is computed once.

    Args:
        logits: (N, C, H, W), any float dtype.
        target: (N, H, W), uint8 or int64, ids in 0..C-1 or 255.

    Attributes:
        logits: float32 (P, C) with P = N * H * W; a view where logits are channels-last float32.
        target: int64 (P,).
        counted: bool (P,), False on void.
        labels: The target as given, (N, H, W).
    """

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        classes = logits.shape[1]
        self.logits = logits.float().permute(0, 2, 3, 1).reshape(-1, classes)
        self.target = target.reshape(-1).long()
        self.counted = self.target != VOID
        self.labels = target

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, float32 (P, C)."""
        return self.logits.softmax(dim=1)

    @cached_property
    def truth(self) -> Tensor:
        """Labels one-hot, bool (P, C); all False on void: 255 never becomes an index."""
        ids = torch.arange(self.logits.shape[1], device=self.target.device)
        return self.target[:, None] == ids

    @cached_property
    def areas(self) -> Tensor:
        """Counted pixels of each class, int64 (C,)."""
        return self.truth.sum(dim=0)

    @cached_property
    def summed(self) -> Tensor:
        """Sum of each class's probability over the counted pixels, float32 (C,)."""
        return torch.where(self.counted[:, None], self.probabilities, 0).sum(dim=0)

    @cached_property
    def hit(self) -> Tensor:
        """Sum of each class's probability over its own pixels, float32 (C,)."""
        return torch.where(self.truth, self.probabilities, 0).sum(dim=0)


def ratio(total: Tensor, count: Tensor) -> Tensor:
    """`total` divided by `count`; 0, with zero gradient, where `count` is 0."""
    some = count > 0
    return torch.where(some, total / torch.where(some, count, 1), 0)


def mean_over_present(scores: Tensor, areas: Tensor) -> Tensor:
    """Mean of the classes' `scores`, float32 (C,), over those with a pixel in the truth."""
    present = areas > 0
    return ratio(torch.where(present, scores, 0).sum(), present.sum())
