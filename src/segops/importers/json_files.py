"""Reads JSON annotations; messages name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from segops.runtime.errors import SegopsError
from segops.runtime.images import read_content

T = TypeVar("T")
_WORDS = {
    str: "a text that is not empty",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def read_tree(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        SegopsError: It is no file, or no JSON.
    """
    try:
        return json.loads(read_content(path))
    except (ValueError, RecursionError) as error:
        raise SegopsError(f"{path}: not readable as JSON: {error}.") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SegopsError: As :func:`read_tree`; or it holds something else.
    """
    tree = read_tree(path)
    if not isinstance(tree, dict):
        raise SegopsError(f"{path}: expected a JSON object.")
    return tree


def require(tree: Any, key: str, where: Path | str, kind: type[T]) -> T:
    """Return a value of an object.

    Args:
        tree: The object.
        key: The key.
        where: The file, or a place in it.
        kind: The value's type. A text must not be empty, `float` takes whole numbers too, and
            `true` is no number.

    Raises:
        SegopsError: The object has no such key, or a value of another type.
    """
    if not isinstance(tree, Mapping) or key not in tree:
        raise SegopsError(f"{where}: an object lacks `{key}`: {str(tree)[:80]}.")
    value = tree[key]
    kinds = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, kinds) or value == "":
        raise SegopsError(
            f"{where}: `{key}` is {str(value)[:80] or 'empty'}; expected {_WORDS[kind]}."
        )
    return cast(T, value)


def identifier(tree: Any, key: str, where: Path | str) -> int | str:
    """Return a value that identifies an object: a whole number or a text.

    Raises:
        SegopsError: As :func:`require`.
    """
    given = tree.get(key) if isinstance(tree, Mapping) else None
    return (
        require(tree, key, where, str) if isinstance(given, str) else require(tree, key, where, int)
    )


def stated_size(tree: Any, width: str, height: str, where: Path | str) -> tuple[int, int] | None:
    """Return width and height by their keys; None where an object states neither.

    Raises:
        SegopsError: As :func:`require`.
    """
    if not isinstance(tree, Mapping) or (tree.get(width) is None and tree.get(height) is None):
        return None
    return require(tree, width, where, int), require(tree, height, where, int)
