"""Finds the photographs of a source."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from segops.runtime.errors import SegopsError
from segops.voc.layout import PHOTOGRAPH_SUFFIXES


def index_photographs(root: Path, but: Collection[Path] = ()) -> dict[str, Path]:
    """Return file name -> path of all photographs below a directory.

    Args:
        root: The directory.
        but: Directories that hold no photographs.

    Raises:
        SegopsError: There is no such directory.
    """
    if not root.is_dir():
        raise SegopsError(f"{root}: no such directory of photographs. --images names it.")
    return {
        file.name: file
        for file in sorted(root.rglob("*"), reverse=True)
        if file.suffix.lower() in PHOTOGRAPH_SUFFIXES
        and file.is_file()
        and not any(parent in but for parent in file.parents)
    }
