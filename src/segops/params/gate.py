"""Section `gate`: the conditions of a promotion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segops.params.base import Probability
from segops.runtime.section import Section


class GateParams(Section):
    """The conditions that a challenger must fulfil to be promoted."""

    min_miou: Probability = Field(0.5, description="Least mIoU on val.")
    min_class_iou: dict[str, Probability] = Field(
        default_factory=dict, description="Least IoU by class name."
    )
    margin: Probability = Field(
        0.01, description="Largest loss of mIoU against the champion that counts as no loss."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Level of the one-sided paired bootstrap."
    )
    bootstrap_samples: Annotated[int, Field(ge=100)] = Field(
        2000, description="Resamples of the paired bootstrap."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the paired bootstrap.")
