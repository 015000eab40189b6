"""The images that a file or a directory stands for, and where their outputs go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segops.runtime.errors import SegopsError

from .journal import JOURNAL, written

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""Of the formats that are decoded; see :mod:`segops.runtime.images`."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image to be predicted.

    Attributes:
        path: Where it lies.
        name: Its path below the directory that was asked for, with slashes.
        output: The directory that all outputs go into.
    """

    path: Path
    name: str
    output: Path

    @property
    def mask(self) -> str:
        """The mask's path below the directory of the outputs, with slashes."""
        return f"{self.name.removesuffix(self.path.suffix)}.png"


def find(source: Path, output: Path) -> list[Source]:
    """The images that `source` stands for, sorted by name.

    Sub-directories are searched, linked directories are not followed (a link can lead back to
    where it lies), and names that begin with a dot are passed over. So is what an earlier
    prediction wrote, where its outputs lie below `source`.

    Args:
        source: An image, or a directory whose images (any of `SUFFIXES`, in either case) are taken.
        output: Directory of the outputs; images keep their relative place in it.

    Raises:
        SegopsError: `source` is missing, not readable or holds no image, two images would share
            one mask's name, or masks would lie among the images.
    """
    if output.exists() and not output.is_dir():
        raise SegopsError(f"{output}: is no directory. Give one for the outputs.")
    if source.is_file():
        found = [Source(source, source.name, output)]
        if (output / found[0].mask).resolve() == source.resolve():
            raise SegopsError(f"{source}: its mask would replace it. Give another --output.")
        return found
    if not source.is_dir():
        raise SegopsError(f"{source}: no such file or directory. Expected images.")
    inside = source.resolve() in output.resolve().parents
    if inside:
        _require_own(output)
    found = [
        Source(path, path.relative_to(source).as_posix(), output)
        for path in _images(source, output.resolve() if inside else None)
    ]
    if not found:
        raise SegopsError(f"{source}: holds no image; expected {', '.join(SUFFIXES)}.")
    found.sort(key=lambda one: one.name)
    _require_apart(found)
    if not inside:
        _require_outside(source, output, found)
    return found


def _images(source: Path, skipped: Path | None = None) -> Iterator[Path]:
    """All images below `source`, in no order; `skipped` is a directory's resolved path."""

    def stop(error: OSError) -> None:
        raise SegopsError(f"{error.filename}: not readable: {error.strerror}.")

    ours: set[Path] = set()
    for place, directories, names in os.walk(source, onerror=stop):
        directory = Path(place)
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and (skipped is None or (directory / name).resolve() != skipped)
        ]
        # An earlier prediction may have gone into another directory below `source`.
        ours |= written(directory)
        for name in names:
            path = directory / name
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path not in ours:
                yield path


def _require_own(output: Path) -> None:
    """Refuse a directory of outputs that lies below the source and holds images of its own."""
    if output.is_dir() and not (output / JOURNAL).is_file():
        image = next(_images(output), None)
        if image is not None:
            raise SegopsError(
                f"{output}: outputs would mix with images that lie there ({image.name}). "
                "Give a new or empty directory with --output."
            )


def _require_apart(found: list[Source]) -> None:
    """Refuse two images with one mask."""
    taken: dict[str, Source] = {}
    for one in found:
        other = taken.setdefault(one.mask, one)
        if other is not one:
            raise SegopsError(
                f"{one.path} and {other.path}: both masks would be {one.output / one.mask}. "
                "Rename one."
            )


def _require_outside(source: Path, output: Path, found: list[Source]) -> None:
    """Refuse outputs among the images: the next run would take masks for images."""
    root, target = source.resolve(), output.resolve()
    if target != root and target not in root.parents:
        return
    for one in found:
        if (target / one.mask).is_relative_to(root):
            raise SegopsError(
                f"{output}: the mask {output / one.mask} would lie among the images of {source}. "
                "Give a directory of its own with --output."
            )
