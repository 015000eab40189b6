"""Section `model`, checked against the table of architectures and encoders.

A module of its own: the table decides which parameters are refused, but changes no stage's result.
"""

from __future__ import annotations

import difflib

from pydantic import ValidationInfo, field_validator, model_validator

from segops.params.compatibility import SMP, TIMM, as_tried, known_name, refusal, table
from segops.params.model import ModelParams


class CheckedModelParams(ModelParams):
    """The network, of an architecture and an encoder that are known to work together."""

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str) -> str:
        names = table().names()
        if value not in names and as_tried(SMP):
            close = difflib.get_close_matches(value.lower(), names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"expected one of {', '.join(names)}{hint}")
        return value

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, value: str, info: ValidationInfo) -> str:
        known, names = known_name(value), table().architectures
        if info.data.get("architecture") in table().any_encoder or known in names:
            return value
        if as_tried(SMP, TIMM):
            close = difflib.get_close_matches(known.lower(), names, n=5)
            nearest = f"; nearest: {', '.join(close)}" if close else ""
            raise ValueError(
                "expected an encoder of segmentation-models-pytorch, or tu-NAME for a model NAME "
                f"of timm{nearest}. `segops models` lists those that work with each architecture"
            )
        return value

    @model_validator(mode="after")
    def _works_together(self) -> CheckedModelParams:
        has_encoder = self.architecture not in table().any_encoder
        if not has_encoder and self.encoder_weights is not None:
            raise ValueError(
                f"{self.architecture} has no encoder, so encoder_weights must be null (found "
                f"{self.encoder_weights!r})"
            )
        if not has_encoder and self.auxiliary_weight > 0:
            raise ValueError(
                f"{self.architecture} has no encoder for an auxiliary head, so auxiliary_weight "
                f"must be 0 (found {self.auxiliary_weight:g})"
            )
        reason = refusal(self.architecture, self.encoder, self.options, self.output_stride)
        if reason:
            raise ValueError(reason)
        return self
