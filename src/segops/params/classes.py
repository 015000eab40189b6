"""The classes of section `data`: their names, the ids that their pixels have, their colours."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_serializer, model_validator

from segops.runtime.classes import VOID, hexadecimal
from segops.runtime.section import Section, Words

MaskId = Annotated[int, Field(ge=0, le=VOID - 1)]
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


def _no_void(value: Any) -> Any:
    if value == VOID:
        raise ValueError(
            f"expected a whole number from 0 to {VOID - 1}: {VOID} means void; `segops data import "
            "folder` with --values makes a class of it"
        )
    return value


ClassId = Annotated[MaskId, BeforeValidator(_no_void)]


class ClassParams(Section):
    """A class; a name alone stands for a class whose id is its place in the list, from 0.

    Attributes:
        name: Its name.
        ids: Its ids in the masks; (): its place.
    """

    name: str
    ids: Annotated[tuple[ClassId, ...], Field(min_length=1)] = ()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer
    def _spelled(self) -> str | dict[str, Any]:
        return {"name": self.name, "ids": list(self.ids)} if self.ids else self.name


ClassList = tuple[Annotated[ClassParams, Words("a name, or a mapping with name and ids")], ...]


def _channels(value: Any) -> Any:
    if isinstance(value, str) and _HEX.fullmatch(value):
        return tuple(bytes.fromhex(value[1:]))
    return value


Channel = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[
    tuple[Channel, Channel, Channel],
    BeforeValidator(_channels),
    Words("a colour: '#rrggbb', or [red, green, blue] from 0 to 255"),
    PlainSerializer(hexadecimal),
]
