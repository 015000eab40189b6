"""The base of every section of ``params.yaml``, and the types of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

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

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where pydantic would take them for 1 and 0."""
        if info.field_name and _holds_truth(value):
            annotation: Any = cls.model_fields[info.field_name].annotation
            if not _takes_truth(annotation):
                if isinstance(value, dict):
                    named = ", ".join(str(key) for key, one in value.items() if _holds_truth(one))
                    raise ValueError(f"expected a number, not true or false, for {named}")
                raise PydanticCustomError("truth", "true or false in place of a number")
        return value


def _holds_truth(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, bool) or (
        isinstance(value, (list, tuple)) and any(map(_holds_truth, value))
    )


@cache
def _takes_truth(annotation: Any) -> bool:
    """Whether true is a value of a type, or of a part of it."""
    if get_origin(annotation) is Literal:
        return any(isinstance(value, bool) for value in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True  # it checks itself
    return annotation in (bool, Any, object) or any(map(_takes_truth, get_args(annotation)))
