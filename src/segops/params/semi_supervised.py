"""The part of section `train` that learns from images without masks, or against a discriminator."""

from __future__ import annotations

from pydantic import Field

from segops.params.base import Fraction
from segops.runtime.section import NonNegative, Positive, Section

CURVES = (
    "pseudo_label_loss", "confident_share", "adversarial_loss", "discriminator_loss",
    "unlabelled_adversarial_loss", "self_taught_loss",
)  # fmt: skip
"""Further columns of the learning curves; a training has those that it uses."""

UNLABELLED_IMAGES = "unlabelled_images"
"""Key of a model's description: how many images without masks it learned from, where there are."""

LEAST_CROP = 32
"""Pixels; of a smaller crop the discriminator's strided convolutions leave nothing."""


class MeanTeacherParams(Section):
    """Learning from the moving average's predictions of images without masks."""

    weight: NonNegative = Field(
        0.0, description="Weight of the loss against pseudo-labels; 0: no mean teacher."
    )
    confidence: Fraction = Field(
        0.95, description="Predictions of a lower probability are no pseudo-labels."
    )


class AdversarialParams(Section):
    """Learning against a discriminator of masks and predictions."""

    weight: NonNegative = Field(
        0.0,
        description="Weight of the adversarial loss on images with masks; 0: no discriminator.",
    )
    lr: Positive = Field(
        1e-4, description="Learning rate of the discriminator; it follows the schedule of `lr`."
    )
    unlabelled_weight: NonNegative = Field(
        0.001, description="Weight of the adversarial loss on images without masks."
    )
    self_taught_weight: NonNegative = Field(
        0.1,
        description="Weight of the loss against the network's own predictions of images without "
        "masks, where the discriminator takes them for masks.",
    )
    confidence: Fraction = Field(
        0.2, description="How sure of that it has to be: the least probability."
    )

    @property
    def learns_unlabelled(self) -> bool:
        """Whether images without masks have a part in it, where there are any."""
        return bool(self.weight and (self.unlabelled_weight or self.self_taught_weight))
