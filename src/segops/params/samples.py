"""The part of section `augment` that training reads itself; the policy holds the rest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segops.params.base import Probability, Sections
from segops.runtime.section import Count, Section


class CopyPasteParams(Section):
    """Objects of rare classes copied from one train image into another."""

    p: Probability = Field(0.0, description="Probability that an image receives objects.")
    max_objects: Count = Field(3, description="Most objects that an image receives.")
    min_area: Count = Field(64, description="Smallest object that is copied, in pixels.")
    classes: Literal["rare"] | tuple[str, ...] = Field(
        "rare",
        description="Classes that are copied: `rare` (fewer pixels than the median class), "
        "or names.",
    )


class SampleParams(Sections):
    """How and where samples are made beside the policy."""

    copy_paste: CopyPasteParams = CopyPasteParams()
    device: Literal["cpu", "gpu", "auto"] = Field(
        "cpu",
        description="Where batches are augmented; `auto`: on the GPU where training runs on "
        "one and every part of the augmentation can, else on the CPU.",
    )
