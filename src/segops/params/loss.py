"""One part of `train.loss`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from segops.runtime.section import Count, NonNegative, Positive, Section

MASK_CLASSIFICATION = "mask_classification"
"""The loss of the queries of architecture `eomt`, which stands alone and takes no options."""

LossName = Literal[
    "cross_entropy",
    "ohem",
    "focal",
    "dice",
    "jaccard",
    "lovasz",
    "tversky",
    "boundary",
    "mask_classification",
]
LOSS_OPTIONS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("label_smoothing",),
    "ohem": ("label_smoothing", "threshold", "min_kept"),
    "focal": ("gamma",),
    "dice": (),
    "jaccard": (),
    "lovasz": (),
    "tversky": ("alpha", "beta"),
    "boundary": ("radius",),
    MASK_CLASSIFICATION: (),
}
"""The options that each loss has."""

WEIGHTED = frozenset({"cross_entropy", "ohem", "focal"})
"""The losses that `train.class_weights` acts on."""


class LossParams(Section):
    """A loss, its weight in the sum, and its options; an option that is null has its default."""

    name: LossName
    weight: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    min_kept: Count | None = None
    gamma: NonNegative | None = None
    alpha: NonNegative | None = None
    beta: NonNegative | None = None
    radius: Count | None = None

    @model_validator(mode="after")
    def _has_these_options(self) -> LossParams:
        allowed = LOSS_OPTIONS[self.name]
        unknown = [name for name in self.options() if name not in allowed]
        if unknown:
            raise ValueError(
                f"the loss {self.name} has no option {', '.join(unknown)}; expected "
                f"{', '.join(allowed) or 'none, so leave it out'}"
            )
        return self

    def options(self) -> dict[str, Any]:
        """The options that are given."""
        given = self.model_dump(exclude={"name", "weight"})
        return {name: value for name, value in given.items() if value is not None}
