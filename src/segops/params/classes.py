"""The classes of section `data`: their names, the ids that their pixels have, their colours."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_serializer, model_validator

from segops.runtime.classes import VOID
from segops.runtime.section import Section, Words

MaskId = Annotated[int, Field(ge=0, le=VOID - 1)]
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


class ClassParams(Section):
    """A class; a name alone stands for a class whose id is its place in the list, from 0."""

    name: str
    ids: Annotated[tuple[MaskId, ...], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer
    def _spelled(self) -> str | dict[str, Any]:
        return self.name if self.ids is None else {"name": self.name, "ids": list(self.ids)}


ClassList = tuple[Annotated[ClassParams, Words("a name, or a mapping with name and ids")], ...]


def _channels(value: Any) -> Any:
    if isinstance(value, str) and _HEX.fullmatch(value):
        return tuple(bytes.fromhex(value[1:]))
    return value


def hexadecimal(color: tuple[int, int, int]) -> str:
    """A colour as `#rrggbb`."""
    return f"#{bytes(color).hex()}"


Channel = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[
    tuple[Channel, Channel, Channel],
    BeforeValidator(_channels),
    Words("a colour: '#rrggbb', or [red, green, blue] from 0 to 255"),
    PlainSerializer(hexadecimal),
]
