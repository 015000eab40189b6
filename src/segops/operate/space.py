"""The space that files take on a disk, where a file may have several names (hard links)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Inode = tuple[int, int]
"""Device and number of a file."""


class Shared(NamedTuple):
    """A file that has other names than those that were met.

    Attributes:
        bytes: The space that it takes.
        met: The number of its names that were met.
        names: The number of all its names.
    """

    bytes: int
    met: int
    names: int


@dataclass(frozen=True)
class Space:
    """The space that files take.

    Attributes:
        bytes: Of the files of which every name was met: what is free once these names are gone.
        shared: The other files.
    """

    bytes: int = 0
    shared: Mapping[Inode, Shared] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all files; each counts once."""
        return self.bytes + sum(one.bytes for one in self.shared.values())


class Tally:
    """Adds spaces up; a file counts once all its names are among them.

    Attributes:
        bytes: What is free once all that was added is gone.
    """

    def __init__(self, spaces: Iterable[Space] = ()) -> None:
        self.bytes = 0
        self.shared: dict[Inode, Shared] = {}
        for one in spaces:
            self.add(one)

    def add(self, space: Space) -> None:
        """Add a space."""
        self.bytes += space.bytes
        for inode, (size, met, names) in space.shared.items():
            if inode in self.shared:
                met += self.shared.pop(inode).met
            if met < names:
                self.shared[inode] = Shared(size, met, names)
            else:
                self.bytes += size


def taken(*places: Path) -> Space:
    """Return the space of files, and of the files below directories; symbolic links take none."""
    tally = Tally(map(_of_file, _files(places)))
    return Space(tally.bytes, tally.shared)


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
        for directory, _, names in os.walk(place):
            yield from (Path(directory, name) for name in names)


def _of_file(path: Path) -> Space:
    with suppress(FileNotFoundError):  # a run may end meanwhile
        if not path.is_symlink():
            found = path.stat()
            name = {(found.st_dev, found.st_ino): Shared(found.st_size, 1, found.st_nlink)}
            return Space(found.st_size) if found.st_nlink == 1 else Space(shared=name)
    return Space()
