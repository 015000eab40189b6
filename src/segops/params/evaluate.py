"""Section `evaluate`: how the score is judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segops.runtime.section import Section


class EvaluateParams(Section):
    """The bootstrap interval of mIoU, and what else is measured."""

    bootstrap_samples: Annotated[int, Field(ge=100)] = Field(
        1000, description="Bootstrap resamples over images."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Level of the interval."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the bootstrap.")
    speed: bool = Field(
        True,
        description="Measure the time and the memory of a prediction too. They are different each "
        "time and decide nothing. A model with exports is measured in any case.",
    )
    robustness: bool = Field(
        False,
        description="Score the images of val under 15 corruptions in three strengths too, such as "
        "noise, blur, fog and JPEG; it takes 46 times as long, and about 1.6 s an "
        "image of 500 x 375 on one thread.",
    )
