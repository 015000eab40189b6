"""Problems of ``params.yaml`` in words, one line for each parameter.

pydantic names the members of a union, the kinds of its errors and Python's types. These messages
give the parameter's key, the values that it takes, and the value found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from segops.params.schema import Schema, members, schema_of

OWN = frozenset({"value_error", "assertion_error"})
"""Kinds of error that carry the words of our own checks."""
NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("text", "texts"),
}
"""Type in a schema -> a value and several values of it."""
BOUNDS = {
    "minimum": "of at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "of at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "of {} or more characters",
    "pattern": "of the form {}",
}
"""Bound in a schema -> in words."""
LONGEST = 60
"""Characters of a value that are shown."""


@dataclass
class _Place:
    """The place of an error, without the names of union members.

    Attributes:
        schema: The type there.
        key: The parts of the parameter's key.
        entries: Positions within the parameter's list, from 1, and keys below them.
    """

    schema: Schema
    key: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)


def listed(model: type[BaseModel], error: ValidationError, name: str) -> str:
    """The message for a file of this name with unusable parameters."""
    lines = problems(model, error.errors())
    number = "1 parameter is" if len(lines) == 1 else f"{len(lines)} parameters are"
    return "\n".join([f"{name}: {number} not usable:", *(f"  {line}" for line in lines)])


def problems(
    model: type[BaseModel], errors: Iterable[Any], within: Sequence[str] = ()
) -> list[str]:
    """One line for each unusable parameter, with its key and the values that it takes.

    `errors` are those of :meth:`pydantic.ValidationError.errors`; the keys `within` stand before
    theirs.
    """
    schema = schema_of(model)
    places = [(error, _place(schema, (*within, *error["loc"]))) for error in errors]
    texts: dict[str, dict[str, None]] = {}
    for error, place in places:
        # Where an entry of a list is wrong, the user did not mean to replace the list as a whole.
        if not place.entries and any(one.key == place.key and one.entries for _, one in places):
            continue
        text = ": ".join([*place.entries, _text(error, place)])
        texts.setdefault(".".join(place.key), {})[text] = None
    return [f"{key}: {'; '.join(lines)}".removeprefix(": ") for key, lines in texts.items()]


def _text(error: Mapping[str, Any], place: _Place) -> str:
    kind, value = error["type"], error["input"]
    if kind in OWN:
        words = error["msg"].partition(", ")[2]
        # A check over several parameters names them and their values itself.
        return words if isinstance(value, Mapping | BaseModel) else f"{words} ({_found(value)})"
    if kind == "extra_forbidden":
        return f"no such parameter; expected one of {', '.join(place.schema['properties'])}"
    if kind == "invalid_key" or error["loc"][-1] == "[key]":
        return f"expected text as a key ({_found(value)})"
    if kind == "missing":
        return f"missing; expected {_phrase(place.schema)}"
    default = place.schema.get("default")
    example = ""
    numbers = isinstance(default, list) and all(isinstance(one, int | float) for one in default)
    if default and numbers and not place.entries:
        example = f", as in {default}"
    return f"expected {_phrase(place.schema)}{example} ({_found(value)})"


def _place(schema: Schema, location: Sequence[str | int]) -> _Place:
    """Follow a location through the types, past the names that pydantic gives union members."""
    place = _Place(schema)
    for part in location:
        schema, union = place.schema, members(place.schema)
        if len(union) > 1:
            # The part names a member of the union, such as `tuple[str, ...]`.
            lists = [one for one in union if one.get("type") == "array"]
            if lists and location[-1] != part:
                place.schema = lists[0]
            continue
        if union:
            schema = union[0]
        if part == "[key]":
            continue
        if schema.get("type") == "array" and isinstance(part, int):
            place.entries.append(f"entry {part + 1}")
            fixed = schema.get("prefixItems")
            place.schema = fixed[min(part, len(fixed) - 1)] if fixed else schema["items"]
            continue
        (place.entries or place.key).append(str(part))
        if "properties" in schema:  # for an unknown name, the section has the known names
            place.schema = schema["properties"].get(str(part), schema)
        else:
            entry = schema.get("additionalProperties")
            place.schema = entry if isinstance(entry, dict) else {}
    return place


def _phrase(schema: Schema, many: bool = False) -> str:
    """The values that a type takes: "a whole number of at least 1", or "null"."""
    if "words" in schema:
        return str(schema["words"])
    if {"anyOf", "enum", "const"} & schema.keys():
        *texts, last = _alternatives(schema)
        return f"{', '.join(texts)} or {last}" if texts else last
    if schema.get("type") == "array":
        fixed, least = schema.get("prefixItems"), schema.get("minItems")
        number = f"{len(fixed)} " if fixed else "" if least is None else f"{least} or more "
        return f"a list of {number}{_phrase(fixed[0] if fixed else schema['items'], many=True)}"
    if schema.get("type") == "object":
        names = f" with {', '.join(schema['properties'])}" if "properties" in schema else ""
        return f"{'mappings' if many else 'a mapping'}{names}"
    return NOUNS.get(schema.get("type", ""), ("a value", "values"))[many] + _bounds(schema)


def _alternatives(schema: Schema) -> list[str]:
    if "const" in schema or "enum" in schema:
        return [str(one) for one in schema.get("enum", [schema.get("const")])]
    union = members(schema)
    if not union:
        return [_phrase(schema)]
    null = ["null"] if len(union) < len(schema["anyOf"]) else []
    return [text for one in union for text in _alternatives(one)] + null


def _bounds(schema: Schema) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    texts = [words.format(schema[name]) for name, words in BOUNDS.items() if name in schema]
    return f" {' and '.join(texts)}" if texts else ""


def _found(value: Any) -> str:
    """A value as ``params.yaml`` would spell it, cut where it is long."""
    text = _spelled(value)
    return f"found {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping | BaseModel):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
