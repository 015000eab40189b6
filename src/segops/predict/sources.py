"""The images of a file or a directory, and the place of their outputs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from segops.runtime.errors import SegopsError

from .journal import JOURNAL, outputs_in
from .table import TABLE

_KINDS = 8
"""How many suffixes of files that are passed over a message names."""
log = logging.getLogger("segops")

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of the formats that :mod:`segops.runtime.images` decodes."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image to predict.

    Attributes:
        path: Path of the file.
        name: Its path below the directory of the images, with slashes.
        output: The directory of all outputs.
    """

    path: Path
    name: str
    output: Path

    @property
    def mask(self) -> str:
        """The mask's path below the directory of the outputs, with slashes."""
        return f"{self.name.removesuffix(self.path.suffix)}.png"

    @property
    def mask_path(self) -> Path:
        """The mask's path."""
        return self.output / self.mask


def find_images(source: Path, output: Path, bands: Collection[str] = ()) -> list[Source]:
    """The images of `source`, sorted by name.

    Sub-directories are searched. Linked directories (a link can lead back to its own directory),
    names that begin with a dot, and the outputs of earlier predictions below `source` are skipped.
    A warning counts other files by their suffix.

    Args:
        source: An image, or a directory of images (any of `SUFFIXES`, in either case).
        output: Directory of the outputs; images keep their relative place in it.
        bands: Names of directories below `source` that hold bands of images, and no image.

    Raises:
        SegopsError: `source` is missing, not readable or holds no image, two images would have
            the same mask, or masks would lie among the images.
    """
    if output.exists() and not output.is_dir():
        raise SegopsError(f"{output}: is no directory. Give one for the outputs.")
    if source.is_file():
        single = Source(source, source.name, output)
        if single.mask_path.resolve() == source.resolve():
            raise SegopsError(f"{source}: its mask would replace it. Give another --output.")
        return [single]
    _require_directory(source)
    images_in, masks_in = source.resolve(), output.resolve()
    inside = images_in in masks_in.parents
    if inside and output.is_dir() and not (output / JOURNAL).is_file():
        among = next(_images(output), None)
        if among is not None:
            raise SegopsError(
                f"{output}: outputs would mix with images that lie there ({among.name}). "
                "Give a new or empty directory with --output."
            )
    others: Counter[str] = Counter()
    sources = [
        Source(path, path.relative_to(source).as_posix(), output)
        for path in _images(source, masks_in if inside else None, bands, others)
    ]
    _tell_others(source, others, bool(sources))
    sources.sort(key=lambda image: image.name)
    by_mask: dict[str, Source] = {}
    for image in sources:
        other = by_mask.setdefault(image.mask, image)
        if other is not image:
            raise SegopsError(
                f"{image.path} and {other.path}: both masks would be {image.mask_path}. Rename one."
            )
        # The next run would take masks among the images for images.
        if not inside and (masks_in / image.mask).is_relative_to(images_in):
            raise SegopsError(
                f"{output}: the mask {image.mask_path} would lie among the images of "
                f"{images_in}. Give a directory of its own with --output."
            )
    return sources


def list_images(source: Path, bands: Collection[str] = ()) -> list[Path]:
    """The images that :func:`find_images` finds, without a place for outputs.

    Raises:
        SegopsError: `source` is missing or not readable, or holds files and none is an image.
    """
    if source.is_file():
        return [source]
    _require_directory(source)
    others: Counter[str] = Counter()
    found = sorted(_images(source, None, bands, others))
    if found or others:
        _tell_others(source, others, bool(found))
    return found


def _require_directory(source: Path) -> None:
    if not source.is_dir():
        raise SegopsError(f"{source}: no such file or directory. Expected images.")


def _tell_others(source: Path, others: Counter[str], has_images: bool) -> None:
    """Name the suffixes of the files that are no images: a warning, or an error without images."""
    if not has_images:
        raise SegopsError(
            f"{source}: holds no image; expected {', '.join(SUFFIXES)}. Passed over: "
            f"{_counted(others) or 'nothing'}."
        )
    if others:
        log.warning(
            "%s: %d file(s) passed over: %s; images end in %s.",
            source, others.total(), _counted(others), ", ".join(SUFFIXES),
        )  # fmt: skip


def _counted(others: Counter[str]) -> str:
    kinds = [
        f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(_KINDS)
    ]
    rest = others.total() - sum(count for _, count in others.most_common(_KINDS))
    return ", ".join([*kinds, f"{rest} other"] if rest else kinds)


def _images(
    source: Path,
    skipped: Path | None = None,
    bands: Collection[str] = (),
    others: Counter[str] | None = None,
) -> Iterator[Path]:
    """All images below `source`, in no order; `skipped` is a directory's resolved path.

    Into `others` go the suffixes of the other files.
    """

    def stop(error: OSError) -> None:
        raise SegopsError(f"{error.filename}: not readable: {error.strerror}.")

    outputs: set[Path] = set()
    for place, directories, names in os.walk(source, onerror=stop):
        directory = Path(place)
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name not in bands
            and (skipped is None or (directory / name).resolve() != skipped)
        ]
        # An earlier prediction may have written into another directory below `source`.
        outputs |= outputs_in(directory)
        for name in names:
            path = directory / name
            if name.startswith(".") or name == TABLE or path in outputs:
                continue
            if path.suffix.lower() in SUFFIXES:
                yield path
            elif others is not None:
                others[path.suffix.lower()] += 1
