"""Section `model`, checked against the table of architectures and encoders.

A module of its own: the table decides which parameters are refused, but changes no stage's result.
"""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator, model_validator

from segops.params.compatibility import (
    refusal,
    table,
    unknown_architecture,
    unknown_encoder,
)
from segops.params.model import ModelParams


class CheckedModelParams(ModelParams):
    """The network, of an architecture and an encoder that are known to work together."""

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
    def _works_together(self) -> CheckedModelParams:
        if self.architecture in table().any_encoder:
            self._needs_no_encoder()
        reason = refusal(self.architecture, self.encoder, self.options, self.output_stride)
        if reason:
            raise ValueError(reason)
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
