"""What is wrong with ``params.yaml``, in words: one line for each parameter.

pydantic names the members of a union, the kinds of its own errors and Python's types. People are
told the parameter's key, what it takes, and what was found instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from segops.runtime.section import Words

OWN = frozenset({"value_error", "assertion_error"})
"""Kinds of error whose words are those of our own checks."""
BOUNDS = {
    "ge": "of at least {}",
    "gt": "above {}",
    "le": "of at most {}",
    "lt": "below {}",
    "min_length": "of {} or more characters",
    "pattern": "of the form {}",
}
"""What a bound on a parameter is called in its type -> in words."""
LONGEST = 60
"""Characters of a value that are shown."""


@dataclass
class _Place:
    """Where an error is, without the names of union members.

    Attributes:
        key: The parameter's dotted key.
        annotation: What stands there, a type with its bounds.
        example: The parameter's default.
        entries: Positions within the parameter's list, from 1, and keys below them.
    """

    key: list[str] = field(default_factory=list)
    annotation: Any = Any
    example: Any = None
    entries: list[str] = field(default_factory=list)


def listed(model: type[BaseModel], error: ValidationError, name: str) -> str:
    """The message for a file whose parameters are not usable.

    Args:
        model: What the file was read as.
        error: What pydantic says of it.
        name: The file's name.
    """
    found = problems(model, error.errors())
    number = "1 parameter is" if len(found) == 1 else f"{len(found)} parameters are"
    return "\n".join([f"{name}: {number} not usable:", *(f"  {one}" for one in found)])


def problems(
    model: type[BaseModel], errors: Iterable[Any], within: Sequence[str] = ()
) -> list[str]:
    """One line for each parameter that is not usable, with its key and what it takes.

    Args:
        model: What was read.
        errors: What pydantic says, as :meth:`pydantic.ValidationError.errors` has it.
        within: Keys that stand before those of `errors`.
    """
    places = [(one, _place(model, (*within, *one["loc"]))) for one in errors]
    told: dict[str, dict[str, None]] = {}
    for error, place in places:
        # Where an entry of a list is wrong, the list as a whole, or another type that would do, is
        # not what the user meant to change.
        if not place.entries and any(one.key == place.key and one.entries for _, one in places):
            continue
        text = ": ".join([*place.entries, _text(error, place)])
        told.setdefault(".".join(place.key), {})[text] = None
    return [f"{key}: {'; '.join(texts)}".removeprefix(": ") for key, texts in told.items()]


def _text(error: Mapping[str, Any], place: _Place) -> str:
    kind, found = error["type"], error["input"]
    if kind in OWN:
        words = error["msg"].partition(", ")[2]
        # A check over several parameters names them and their values itself.
        return words if isinstance(found, Mapping | BaseModel) else f"{words} ({_found(found)})"
    if kind == "extra_forbidden":
        return f"no such parameter; expected one of {', '.join(_names(place.annotation))}"
    if kind == "invalid_key" or error["loc"][-1] == "[key]":
        return f"expected text as a key ({_found(found)})"
    if kind == "missing":
        return f"missing; expected {_phrase(place.annotation)}"
    example = ""
    if isinstance(place.example, tuple) and place.example and not place.entries:
        example = f", as in {list(place.example)}" if _all_numbers(place.example) else ""
    return f"expected {_phrase(place.annotation)}{example} ({_found(found)})"


def _place(model: type[BaseModel], location: Sequence[str | int]) -> _Place:
    """Follow a location through the types, past the names that pydantic gives union members."""
    place = _Place(annotation=model)
    for part in location:
        annotation, _ = _bare(place.annotation)
        members = _members(annotation)
        if len(members) > 1:
            # The part names a member of the union, as `tuple[str, ...]`.
            lists = [one for one in members if get_origin(_bare(one)[0]) is tuple]
            place.annotation = lists[0] if lists and location[-1] != part else place.annotation
            continue
        if members:
            annotation, _ = _bare(members[0])
        if part == "[key]":
            continue
        keys = place.entries if place.entries else place.key
        if get_origin(annotation) is tuple and isinstance(part, int):
            inner = get_args(annotation)
            place.entries.append(f"entry {part + 1}")
            place.annotation = (
                inner[0] if inner[-1] is Ellipsis else inner[min(part, len(inner) - 1)]
            )
        elif _is_section(annotation):
            found = _fields(annotation).get(str(part))
            keys.append(str(part))
            if found is None:
                place.annotation = annotation  # an unknown name: its section tells the known ones
            else:
                place.annotation = Annotated[(found.annotation, *found.metadata, found)]
                place.example = found.default
        else:
            keys.append(str(part))
            place.annotation = get_args(annotation)[1] if get_origin(annotation) is dict else Any
    return place


def _phrase(annotation: Any, many: bool = False) -> str:
    """What a type with its bounds takes: "a whole number of at least 1", or "null"."""
    base, bounds = _bare(annotation)
    own = next((one.text for one in bounds if isinstance(one, Words)), None)
    if own is not None:
        return own
    if _members(base) or get_origin(base) is Literal:
        return _either(_alternatives(base))
    if get_origin(base) is tuple:
        return _list_phrase(base, bounds)
    if get_origin(base) is dict or _is_section(base):
        names = f" with {', '.join(_fields(base))}" if _is_section(base) else ""
        return f"{'mappings' if many else 'a mapping'}{names}"
    words = {
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        bool: ("true or false", "true or false"),
        str: ("text", "texts"),
    }.get(base, ("a value", "values"))
    return f"{words[many]}{_bounds(bounds)}"


def _alternatives(annotation: Any) -> list[str]:
    base, _ = _bare(annotation)
    if get_origin(base) is Literal:
        return [str(one) for one in get_args(base)]
    members = _members(base)
    if not members:
        return [_phrase(annotation)]
    null = ["null"] if NoneType in get_args(base) else []
    return [text for one in members for text in _alternatives(one)] + null


def _list_phrase(base: Any, bounds: Sequence[Any]) -> str:
    inner = get_args(base)
    least = _bound(bounds, "min_length")
    number = "" if inner[-1] is Ellipsis else f"{len(inner)} "
    if least is not None:
        number = f"{least} or more "
    return f"a list of {number}{_phrase(inner[0], many=True)}"


def _bounds(bounds: Sequence[Any]) -> str:
    low, high = _bound(bounds, "ge"), _bound(bounds, "le")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    texts = [
        words.format(value)
        for name, words in BOUNDS.items()
        if (value := _bound(bounds, name)) is not None
    ]
    return f" {' and '.join(texts)}" if texts else ""


def _bound(bounds: Sequence[Any], name: str) -> Any:
    found = (getattr(one, name, None) for one in bounds)
    return next((one for one in found if one is not None), None)


def _bare(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations, and the annotations."""
    bounds: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        for one in metadata:
            bounds += [*one.metadata] if isinstance(one, FieldInfo) else [one]
    return annotation, bounds


def _members(annotation: Any) -> list[Any]:
    """The members of a union but None; nothing where it is no union."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [one for one in get_args(annotation) if one is not NoneType]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(section: Any) -> dict[str, FieldInfo]:
    """The parameters of a section by the name that ``params.yaml`` has for them."""
    return {one.alias or name: one for name, one in section.model_fields.items()}


def _names(annotation: Any) -> list[str]:
    return list(_fields(_bare(annotation)[0]))


def _all_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) for one in values)


def _either(texts: Sequence[str]) -> str:
    """Texts as alternatives: "a, b or c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


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
