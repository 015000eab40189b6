"""Reads JSON annotations; messages name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segops.runtime.errors import SegopsError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SegopsError: The file cannot be read, or holds something else.
    """
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SegopsError(f"{path}: not readable as JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise SegopsError(f"{path}: expected a JSON object.")
    return tree


def require(tree: Any, key: str, path: Path) -> Any:
    """Return a value of an object.

    Raises:
        SegopsError: It has no such key.
    """
    if not isinstance(tree, Mapping) or key not in tree:
        raise SegopsError(f"{path}: an object lacks `{key}`: {str(tree)[:80]}.")
    return tree[key]
