"""What every section of ``params.yaml`` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Words:
    """What a parameter takes, in words, where its type alone would not tell.

    Attributes:
        text: As it follows "expected" in a message.
    """

    text: str


class Section(BaseModel):
    """A part of ``params.yaml``: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
