"""Figures out of an evaluation, which may be older than this page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def figure(tree: Mapping[str, Any], path: str) -> float | None:
    """A figure by its dotted path; None where a key is missing, empty or not a number."""
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
