"""The types of the parameters as pydantic's JSON schema, looked up by dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


@cache
def schema_of(model: type[BaseModel]) -> Schema:
    """The JSON schema of a model, every reference replaced by its definition."""
    whole = model.model_json_schema()
    definitions = whole.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]] | part
        return {key: inlined(value) for key, value in part.items() if key != "$ref"}

    schema: Schema = inlined(whole)
    return schema


def members(schema: Schema) -> list[Schema]:
    """The members of a union but null; empty where it is no union."""
    return [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]


def number_types(schema: Schema) -> set[str]:
    """`integer` or `number`, where a parameter takes such a number; else nothing.

    A number among several choices and a number in a list do not count.
    """
    own = [one for one in members(schema) or [schema] if not {"enum", "const"} & one.keys()]
    return {"integer", "number"} & {one.get("type", "") for one in own}


def follow(schema: Schema, key: str) -> tuple[Schema | None, list[str]]:
    """Follow a dotted key from section to section.

    Returns:
        The parameter's schema, None where it is unknown or an entry of an open mapping, and the
        parts of the key. The key of an entry is one part, dots and all: `tune.ranges.train.lr` is
        the entry `train.lr` of `tune.ranges`.
    """
    names = key.split(".")
    for place, name in enumerate(names):
        if "properties" not in schema:
            return None, [*names[:place], ".".join(names[place:])]
        if name not in schema["properties"]:
            rest = names[place + 1 :]
            return None, [*names[: place + 1], *([".".join(rest)] if rest else [])]
        schema = schema["properties"][name]
    return schema, names


def set_values(model: type[BaseModel], tree: Any, values: Mapping[str, Any]) -> None:
    """Set values by dotted key in a tree of mappings, making those that are missing."""
    for key, value in values.items():
        *parents, last = follow(schema_of(model), key)[1]
        place = tree
        for name in parents:
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
        place[last] = value
