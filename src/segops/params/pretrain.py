"""Section `pretrain`: an encoder learns from images without masks."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from segops.params.augment import FlipParams, ScaleParams
from segops.runtime.section import Count, NonNegative, Positive, Section


class PretrainParams(Section):
    """The pretraining of an encoder on images without masks."""

    images: str | None = Field(
        None, description="Directory of images; null: the images of train, without their masks."
    )
    encoder_weights: str | None = Field(
        None,
        description="What `model.encoder` starts from, as `model.encoder_weights`; null: random.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of all randomness.")
    epochs: Count = Field(100, description="Passes over the images.")
    batch_size: Count = Field(16, description="Images of one optimiser step.")
    lr: Positive = Field(1e-3, description="Learning rate after warm-up; it falls as a cosine.")
    weight_decay: NonNegative = Field(0.05, description="Weight decay of AdamW.")
    warmup_epochs: NonNegative = Field(5.0, description="Epochs of linear warm-up.")
    crop: tuple[Count, Count] = Field(
        (224, 224), description="Height and width of a crop, in pixels."
    )
    scale: ScaleParams = ScaleParams(range=(0.75, 1.5))
    flip: FlipParams = FlipParams()
    mask_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.6, description="Share of a crop that is hidden; He et al.: 0.75."
    )
    mask_block: Count = Field(
        32,
        description="Side of a hidden square, in pixels; a vision transformer hides its patches.",
    )
    noise: NonNegative = Field(
        0.1,
        description="Standard deviation of the noise on the normalised crop; a vision transformer "
        "gets none.",
    )
    decoder_width: Count = Field(128, description="Channels of the decoder, which is thrown away.")
    decoder_depth: Count = Field(2, description="Blocks of the decoder of a vision transformer.")

    @model_validator(mode="after")
    def _warms_up(self) -> PretrainParams:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be less than epochs {self.epochs}: set "
                "pretrain.warmup_epochs to 0, or pretrain.epochs to "
                f"{math.floor(self.warmup_epochs) + 1} or more"
            )
        return self
