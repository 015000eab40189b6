"""Which colour is which class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from segops.report.overlay import css_colour
from segops.runtime.classes import VOID


def legend(ids: Iterable[int], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Entries for the pages' legend.

    Args:
        ids: Ids to name, in order.
        class_names: Names in id order.

    Returns:
        For every id its `name`, its `colour` as CSS, and whether it is `void`.
    """
    return [
        {"name": _name(index, class_names), "colour": css_colour(index), "void": index == VOID}
        for index in ids
    ]


def _name(index: int, class_names: Sequence[str]) -> str:
    if index == VOID:
        return "void"
    return class_names[index] if index < len(class_names) else f"id {index}"
