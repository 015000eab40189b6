"""Section `data`: the data set."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import Field, field_validator

from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.section import Section


class DataParams(Section):
    """Where the data set lies and which classes its masks hold."""

    path: str = Field("data/voc", description="Directory in VOC layout, tracked by DVC.")
    classes: Literal["voc"] | tuple[str, ...] = Field(
        "voc",
        description="`voc` (the 21 classes) or a list of names in id order, background first.",
    )

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePath(value)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError("expected a directory inside the checkout, such as data/voc")
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if value == "voc":
            return value
        if not 2 <= len(value) <= VOID:
            raise ValueError(f"expected 2 to {VOID} names: id {VOID} means void and is not a class")
        blank = [str(id_) for id_, name in enumerate(value) if not name.strip()]
        if blank:
            raise ValueError(f"expected a name for every id; blank: id {', '.join(blank)}")
        steering = [str(id_) for id_, name in enumerate(value) if not name.isprintable()]
        if steering:
            raise ValueError(
                "expected names of printable characters, without control characters and ends of "
                f"lines; others: id {', '.join(steering)}"
            )
        if len(set(value)) != len(value):
            raise ValueError("expected every name once")
        return value

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order; `len(class_names)` is the number of classes."""
        return VOC_CLASSES if isinstance(self.classes, str) else self.classes
