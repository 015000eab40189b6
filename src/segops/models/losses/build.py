"""The losses by name, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segops.params.loss import MASK_CLASSIFICATION, WEIGHTED, LossParams

from .lovasz import Lovasz
from .masks import MaskClassification
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
"""Every loss of pixels by its name in ``train.loss``."""


def build_loss(
    parts: Sequence[LossParams], class_weights: Sequence[float] | None = None
) -> nn.Module:
    """The loss that section `train` describes: of masks, or a :class:`Loss` of pixels."""
    if any(part.name == MASK_CLASSIFICATION for part in parts):  # it stands alone
        return MaskClassification()
    return Loss(parts, class_weights)


class Loss(nn.Module):
    """A weighted sum of losses of pixels, without parameters.

    Args:
        parts: The losses with their weights and options, at least one.
        class_weights: (C,), not negative, in id order, for the losses that take them. They move
            with the module to a device.
    """

    def __init__(
        self, parts: Sequence[LossParams], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.parts = nn.ModuleList()
        for part in parts:
            of_classes = {"class_weights": weights} if part.name in WEIGHTED else {}
            self.parts.append(LOSSES[part.name](**part.options(), **of_classes))
        self.weights = tuple(part.weight for part in parts)

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
