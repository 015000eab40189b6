"""Section `data`: the data set."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import Field, field_validator

from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.images import MAX_PIXELS, Photographs
from segops.runtime.section import Count, Section


class DataParams(Section):
    """Where the data set lies and which classes its masks hold."""

    path: str = Field("data/voc", description="Directory in VOC layout, tracked by DVC.")
    classes: Literal["voc"] | tuple[str, ...] = Field(
        "voc",
        description="`voc` (the 21 classes) or a list of names in id order, background first.",
    )

    max_pixels: Count = Field(
        MAX_PIXELS,
        description="Photographs and masks of more pixels are refused before they are decoded.",
    )
    bit_depth: int | None = Field(
        None,
        ge=9,
        le=16,
        description="Bits that photographs of 16 bits a channel use: they are scaled to 8 in "
        "training and in prediction. null: colours become their upper 8 bits, and greyscale of "
        "16 bits is refused.",
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
    def photographs(self) -> Photographs:
        """How photographs and masks are read."""
        return Photographs(self.max_pixels, self.bit_depth)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in id order; `len(class_names)` is the number of classes."""
        return VOC_CLASSES if isinstance(self.classes, str) else self.classes
