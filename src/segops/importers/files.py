"""Finds the photographs of a source."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from segops.runtime.errors import SegopsError
from segops.voc.layout import PHOTOGRAPH_SUFFIXES
from segops.words import counted


def files_below(root: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield what lies below a directory and has one of these suffixes, in the order of the names.

    Links to directories are followed, save back to a directory that holds the link. What is no
    directory counts as a file: its reader refuses what it cannot read.
    :func:`is_litter` is left out.

    Raises:
        OSError: A directory cannot be read.
    """
    above: dict[Path, frozenset[str]] = {}
    for name, inner, names in os.walk(root, onerror=_refuse, followlinks=True):
        directory, real = Path(name), os.path.realpath(name)
        holders = above.get(directory.parent, frozenset())
        if real in holders:
            inner.clear()
            continue
        above[directory] = holders | {real}
        inner[:] = sorted(one for one in inner if not is_litter([one]))
        for file in sorted(names):
            if Path(file).suffix.lower() in suffixes and not is_litter([], file):
                yield directory / file


def is_litter(directories: Iterable[str], name: str = "") -> bool:
    """Whether a directory is hidden, or what an archive of macOS holds beside the files."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in directories)
    return hidden or name.startswith("._")


def _refuse(error: OSError) -> None:
    raise error


def place(given: str, source: Path) -> Path:
    """Return a directory that a user names: the current one's, where it exists, else `source`'s."""
    path = Path(given)
    return path if path.is_dir() else source / path


class Photographs:
    """The photographs of a source, found by the names that annotations give.

    Args:
        source: The data set: a directory, or its annotation file.
        images: What the user calls the directory of the photographs; None: that of `source`; of a
            file also the one above it, where its own holds no photograph.
        but: Directories that hold no photographs.

    Attributes:
        root: The directory of the photographs.

    Raises:
        SegopsError: There is no such directory.
    """

    def __init__(self, source: Path, images: str | None, but: Collection[Path] = ()) -> None:
        directory = source if source.is_dir() else source.parent
        self.root = place(images, directory) if images else directory
        if not self.root.is_dir():
            raise SegopsError(f"{self.root}: no such directory of photographs. --images names it.")
        found = _below(self.root, but)
        above = directory.resolve().parent
        if not found and not images and directory != source and above != above.parent:
            self.root = above
            found = _below(above, but)
        self._named = images is not None
        self._by_path = {os.path.normpath(path.absolute()): path for path in found}
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in found:
            self._by_name[path.name].append(path)
            self._by_stem[path.stem].append(path)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._by_path.values())

    def holds(self, name: str) -> bool:
        """Say whether a photograph has this name, without directories."""
        return PurePosixPath(name.replace("\\", "/")).name in self._by_name

    def find(
        self,
        name: str,
        near: Path,
        where: Path | str,
        prefers: Callable[[Path], bool] = lambda _: False,
    ) -> Path:
        """Return the photograph that an annotation names.

        Args:
            name: Its path, from `near` or the directory of the photographs (this one first where
                the user names it), or its name.
            near: The directory of the annotation.
            where: The annotation in messages.
            prefers: Whether one of several photographs of its name, by its path below the directory
                of the photographs, is likelier than others.

        Raises:
            SegopsError: There is none of its name, or there are several.
        """
        given = PurePosixPath(name.replace("\\", "/"))
        for start in (self.root, near) if self._named else (near, self.root):
            if path := self._by_path.get(os.path.normpath((start / given).absolute())):
                return path
        named = closest(self._by_name.get(given.name, []), given.parts[:-1])
        likely = [path for path in named if prefers(path.relative_to(self.root))]
        return _only(likely or named, f"{where}: its image {name}", self.root)

    def of_stem(self, stem: str, where: Path | str) -> Path:
        """Return the photograph of a name without suffix; see :meth:`find`."""
        return _only(self._by_stem.get(stem, []), f"{where}: its image {stem}", self.root)

    def unnamed(self, named: Iterable[Path]) -> tuple[str, ...]:
        """Return a line on the photographs that nothing names, if there are any."""
        return unnamed(set(self) - set(named))


def closest(paths: Iterable[Path], directories: Sequence[str]) -> list[Path]:
    """Return the paths whose innermost directories are most like these."""
    shared: dict[int, list[Path]] = {0: []}
    for path in paths:
        pairs = zip(reversed(path.parent.parts), reversed(directories), strict=False)
        shared.setdefault(
            sum(1 for _ in takewhile(lambda two: two[0] == two[1], pairs)), []
        ).append(path)
    return shared[max(shared)]


def unnamed(photographs: Collection[Path]) -> tuple[str, ...]:
    """Return a line on photographs that are left out because nothing names them."""
    if not photographs:
        return ()
    words = counted(len(photographs), "photograph")
    return (f"{words} that no annotation or list names left out, such as {min(photographs)}.",)


def _below(root: Path, but: Collection[Path]) -> list[Path]:
    return [
        path
        for path in files_below(root, PHOTOGRAPH_SUFFIXES)
        if not any(parent in but for parent in path.parents)
    ]


def _only(found: list[Path], what: str, root: Path) -> Path:
    if len(found) > 1:
        raise SegopsError(
            f"{what} may be {', '.join(map(str, found[:5]))}. Name its directory in the annotation "
            "or with --images."
        )
    if not found:
        raise SegopsError(f"{what} is not below {root}. --images names another directory.")
    return found[0]
