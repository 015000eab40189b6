"""The base of every section of ``params.yaml``, and the types of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Words:
    """The values that a parameter takes, in words, where its type alone would not tell.

    Attributes:
        text: The words after "expected" in a message.
    """

    text: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """Put the words into the parameter's schema."""
        return {**handler(core), "words": self.text}


class Section(BaseModel):
    """A part of ``params.yaml``: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
