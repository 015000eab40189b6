"""A data set out of DVC's cache: the list of its files, and a directory of links to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from segops import files

MD5 = "[0-9a-f]{32}"


def listed(content: bytes) -> dict[str, str]:
    """Return the MD5 of each file of a directory, by its path below it, from DVC's list of them.

    Raises:
        ValueError: It is no such list, or a path leads out of the directory.
        LookupError, TypeError: It is no such list.
    """
    files_of = {str(one["relpath"]): str(one["md5"]) for one in json.loads(content)}
    for name, md5 in files_of.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not re.fullmatch(MD5, md5):
            raise ValueError(name)
    return files_of


@contextmanager
def linked(held: Mapping[str, Path]) -> Iterator[Path]:
    """A temporary directory of links to files, by their path in it."""
    with files.scratch() as scratch:
        for name, cached in held.items():
            link = scratch / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(cached)
        yield scratch
