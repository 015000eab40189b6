"""Section `validate`: the conditions on the data set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segops.params.base import Probability
from segops.runtime.section import Count, Section


class ValidateParams(Section):
    """The conditions that the data must fulfil before training."""

    required_classes: Literal["all"] | tuple[str, ...] = Field(
        "all", description="Classes that must occur in train and in val: `all`, or a list of names."
    )
    max_void_fraction: Probability = Field(
        0.95, description="Largest share of void pixels allowed in one mask; VOC 2012's is 0.916."
    )
    max_near_duplicates: int | None = Field(
        None,
        ge=0,
        description="Most pairs of near-duplicates in different splits; null: warn only.",
    )
    min_train_images: Count = Field(1, description="Fewest images that train may hold.")
    min_val_images: Count = Field(1, description="Fewest images that val may hold.")

    def required(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the classes that must occur in train and in val, out of all that there are."""
        return class_names if isinstance(self.required_classes, str) else self.required_classes
