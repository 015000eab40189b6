"""The transforms of Albumentations that ``augment.extra`` names."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable
from typing import Any

import albumentations as A
from albumentations.core.transforms_interface import BasicTransform
from pydantic import ValidationError

from segops.params.augment import ExtraParams
from segops.runtime.errors import SegopsError

GIVEN = {"image", "mask"}
"""What training gives a transform."""


def build_extra(params: Iterable[ExtraParams]) -> list[BasicTransform]:
    """Build transforms from their names and arguments.

    Raises:
        SegopsError: Every entry that names no transform, whose arguments the transform does not
            take, or whose transform needs more than an image and its mask.
    """
    built, faults = [], []
    for number, entry in enumerate(params, 1):
        try:
            built.append(_build(entry.name, {"p": entry.p, **entry.arguments}))
        except SegopsError as error:
            faults.append(SegopsError(f"augment.extra: entry {number}: {error}"))
    if faults:
        raise SegopsError("\n".join(map(str, faults)))
    return built


def _build(name: str, arguments: dict[str, Any]) -> BasicTransform:
    known: dict[str, Any] = {
        key: value
        for key, value in vars(A).items()
        if inspect.isclass(value)
        and issubclass(value, BasicTransform)
        and value.__module__ != BasicTransform.__module__
    }
    if name not in known:
        raise SegopsError(
            f"Albumentations {A.__version__} has no transform {name!r}{_hint(name, known)} "
            "Expected the name of a single transform, such as RandomFog, not of a composition."
        )
    takes = list(inspect.signature(known[name]).parameters)
    for key in arguments:
        if key not in takes:
            raise SegopsError(
                f"{name} has no argument {key!r}{_hint(key, takes)} It takes {', '.join(takes)}."
            )
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            # Without `strict`, Albumentations takes the defaults in place of some bad arguments.
            transform: BasicTransform = known[name](**arguments, strict=True)
    except (ValueError, TypeError) as error:
        raise SegopsError(f"{name}: {_reason(error)}") from None
    # Albumentations only warns of arguments that it changes or no longer takes. Its other warnings
    # advise another transform.
    for text in (str(warning.message) for warning in warned):
        if any(re.search(rf"\b{re.escape(key)}\b", text) for key in arguments.keys() - {"p"}):
            raise SegopsError(f"{name}: {text}")
    missing = sorted({*transform.targets_as_params} - GIVEN)
    if not missing and "image" not in transform.available_keys:
        missing = sorted(transform.available_keys)
    if missing:
        raise SegopsError(
            f"{name} needs {', '.join(missing)}; training gives a transform an image and its mask. "
            "Use another transform."
        )
    return transform


def _hint(name: str, known: Iterable[str]) -> str:
    lower = {right.lower(): right for right in known}
    close = [lower[key] for key in difflib.get_close_matches(name.lower(), lower, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else "."


def _reason(error: Exception) -> str:
    """What is wrong with arguments, in a line."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        faults = [
            (".".join(map(str, fault["loc"])) or "arguments", fault["msg"], fault["input"])
            for fault in cause.errors()
        ]
        return "; ".join(f"{place}: {words} (found {value!r})" for place, words, value in faults)
    return " ".join(str(error).split())
