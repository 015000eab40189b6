"""The losses by name, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segops.params.loss import WEIGHTED, LossParams

from .lovasz import Lovasz
from .pixels import Pixels
from .pixelwise import BoundaryWeighted, CrossEntropy, Focal, OnlineHardExamples
from .regions import Dice, Jaccard, Tversky

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "ohem": OnlineHardExamples,
    "focal": Focal,
    "dice": Dice,
    "jaccard": Jaccard,
    "lovasz": Lovasz,
    "tversky": Tversky,
    "boundary": BoundaryWeighted,
}
"""Every loss by its name in ``train.loss``."""


class Loss(nn.Module):
    """A weighted sum of losses.

    Args:
        parts: The losses; each maps :class:`Pixels` to a scalar.
        weights: Their factors.
    """

    def __init__(self, parts: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (N, C, H, W), any float dtype.
            target: (N, H, W), uint8 or int64, ids in 0..C-1 or 255 for void.

        Returns:
            float32 scalar, on the logits' device.

        Raises:
            SegopsError: There are class weights, but not one for each class.
        """
        with torch.autocast(logits.device.type, enabled=False):
            pixels = Pixels(logits, target)
            values = [
                weight * part(pixels) for part, weight in zip(self.parts, self.weights, strict=True)
            ]
            return torch.stack(values).sum() if len(values) > 1 else values[0]


def build_loss(parts: Sequence[LossParams], class_weights: Sequence[float] | None = None) -> Loss:
    """Build the loss that section `train` describes.

    Args:
        parts: The losses with their weights and options, at least one.
        class_weights: (C,), not negative, in id order, for the losses that take them.

    Returns:
        A module that maps logits and target to a scalar; it has no parameters, and its class
        weights move with it to a device.
    """
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    losses = []
    for part in parts:
        options = part.options()
        if part.name in WEIGHTED:
            options["class_weights"] = weights
        losses.append(LOSSES[part.name](**options))
    return Loss(losses, [part.weight for part in parts])
