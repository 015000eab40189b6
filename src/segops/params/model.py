"""Section `model`: the network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from segops.params.base import Fraction
from segops.runtime.section import NonNegative, Section


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

    @model_validator(mode="after")
    def _starts_once(self) -> ModelParams:
        if self.start_from is not None and self.encoder_weights is not None:
            raise ValueError(
                "start_from brings all weights, so encoder_weights must be null (found "
                f"{self.encoder_weights!r})"
            )
        return self
