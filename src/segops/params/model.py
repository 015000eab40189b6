"""Section `model`: the network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from segops.params.base import Fraction, NonNegative, Section
from segops.params.compatibility import (
    refusal,
    table,
    unknown_architecture,
    unknown_encoder,
)


class ModelParams(Section):
    """The network."""

    architecture: str = Field(
        "unet", description="The network's head; `segops models` lists them all."
    )
    encoder: str = Field(
        "resnet18",
        description="Encoder of segmentation-models-pytorch, or `tu-` and a model of timm.",
    )
    encoder_weights: str | None = Field(
        None,
        description="`imagenet` or another published name, null (random), or the path of a local "
        "safetensors file or checkpoint.",
    )
    start_from: str | None = Field(
        None,
        description="Trained model to start from: `models:/NAME@champion`, `models:/NAME/VERSION` "
        "or a bundle's directory; null: none.",
    )
    output_stride: Literal[8, 16, 32] | None = Field(
        None,
        description="Stride of the encoder's coarsest features, by dilation; null: the "
        "architecture's own.",
    )
    auxiliary_weight: NonNegative = Field(
        0.0, description="Weight of an auxiliary FCN head's loss in training; 0: no such head."
    )
    dropout: Fraction | None = Field(
        None, description="Dropout before the classifier; null: the architecture's own."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of the architecture."
    )

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str) -> str:
        reason = unknown_architecture(value)
        if reason:
            raise ValueError(reason)
        return value

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, value: str, info: ValidationInfo) -> str:
        unused = info.data.get("architecture") in table().any_encoder
        reason = None if unused else unknown_encoder(value)
        if reason:
            raise ValueError(reason)
        return value

    @model_validator(mode="after")
    def _works_together(self) -> ModelParams:
        if self.architecture in table().any_encoder:
            self._needs_no_encoder()
        reason = refusal(self.architecture, self.encoder, self.options, self.output_stride)
        if reason:
            raise ValueError(reason)
        if self.start_from is not None and self.encoder_weights is not None:
            raise ValueError(
                "start_from brings all weights, so encoder_weights must be null (found "
                f"{self.encoder_weights!r})"
            )
        return self

    def _needs_no_encoder(self) -> None:
        if self.encoder_weights is not None:
            raise ValueError(
                f"{self.architecture} has no encoder, so encoder_weights must be null (found "
                f"{self.encoder_weights!r})"
            )
        if self.auxiliary_weight > 0:
            raise ValueError(
                f"{self.architecture} has no encoder for an auxiliary head, so auxiliary_weight "
                f"must be 0 (found {self.auxiliary_weight:g})"
            )
