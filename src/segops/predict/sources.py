"""The images of a file, a directory, a list or a bucket, and the place of their outputs."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from segops.runtime.errors import SegopsError

from . import bucket
from .image_list import SourceList
from .journal import JOURNAL, outputs_in
from .outputs import MASK_VIDEO
from .table import TABLE
from .video_file import SUFFIXES as VIDEOS

_KINDS = 8
"""How many suffixes of files that are passed over a message names."""
log = logging.getLogger("segops")

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of the formats that :mod:`segops.runtime.images` decodes."""

LISTS = (".list", ".lst", ".txt")
"""Suffixes of a file that names an image, or the address of one, in each line."""


@dataclass(frozen=True)
class Found:
    """What is to be predicted: `images`, and `videos`."""

    images: SourceList
    videos: SourceList


def find_sources(source: Path | str, output: Path, bands: Collection[str] = ()) -> Found:
    """The images and videos of `source`, sorted by name.

    Sub-directories are searched. Linked directories (a link can lead back to its own directory),
    names that begin with a dot, and the outputs of earlier predictions below `source` are skipped.
    A warning counts other files by their suffix.

    Args:
        source: An image; a video; a directory of both (any of `SUFFIXES` and of the suffixes of
            videos, in either case); a list (any of `LISTS`), see :func:`_add_list`; or
            ``s3://BUCKET/PREFIX``, see :func:`segops.predict.bucket.images`.
        output: Directory of the outputs; images keep their relative place in it.
        bands: Names of directories below `source` that hold bands of images, and no image.

    Raises:
        SegopsError: `source` is missing, not readable or holds no image, two images would have
            the same mask, or masks would lie among the images.
    """
    if output.exists() and not output.is_dir():
        raise SegopsError(f"{output}: is no directory. Give one for the outputs.")
    found = Found(SourceList(output), SourceList(output, MASK_VIDEO))
    text = str(source)
    if "://" in text:
        others: Counter[str] = Counter()
        for name, address in bucket.images(text, SUFFIXES, others):
            found.images.add(name, address)
        _tell_others(text, others, bool(found.images))
        return found
    source = Path(source)
    suffix = source.suffix.lower()
    if source.is_file() and suffix in LISTS:
        _add_list(source, output, found)
    elif source.is_file():
        kind = found.videos if suffix in VIDEOS else found.images
        kind.add(source.name, str(source))
        (single,) = kind.part(0, 1)
        if single.mask_path.resolve() == source.resolve():
            raise SegopsError(f"{source}: its mask would replace it. Give another --output.")
    else:
        _add_directory(source, output, bands, found)
    return found


def _add_directory(source: Path, output: Path, bands: Collection[str], found: Found) -> None:
    _require_directory(source)
    images_in, masks_in = source.resolve(), output.resolve()
    inside = images_in in masks_in.parents
    if inside and output.is_dir() and not (output / JOURNAL).is_file():
        among = next(_files(output, SUFFIXES), None)
        if among is not None:
            raise SegopsError(
                f"{output}: outputs would mix with images that lie there ({among.name}). "
                "Give a new or empty directory with --output."
            )
    others: Counter[str] = Counter()
    for path in _files(source, SUFFIXES + VIDEOS, masks_in if inside else None, bands, others):
        kind = found.videos if path.suffix.lower() in VIDEOS else found.images
        kind.add(path.relative_to(source).as_posix(), str(path))
    _tell_others(source, others, bool(found.images or found.videos), VIDEOS)
    if inside or masks_in not in (images_in, *images_in.parents):
        return
    for kind in (found.images, found.videos):
        for directory in kind.directories():
            # The next run would take masks among the images for images.
            place = masks_in / directory.relative_to(output)
            if place.is_relative_to(images_in):
                raise SegopsError(
                    f"{output}: the masks of {place} would lie among the images of "
                    f"{images_in}. Give a directory of its own with --output."
                )


def _add_list(path: Path, output: Path, found: Found) -> None:
    """Add the images that a file names, line by line.

    A line is a path, relative to the list's directory or absolute, or ``s3://BUCKET/KEY``. Below
    the directory of the outputs an image keeps its path from the list's directory; one that lies
    elsewhere keeps its whole path, without the leading slash, as an address does without
    ``s3://``. Empty lines are skipped.
    """
    above = f"{os.path.abspath(path.parent)}{os.sep}"  # noqa: PTH100  links stay as written
    again = 0
    same = output.resolve() == path.parent.resolve()
    masks_in = above if same else f"{output.resolve()}{os.sep}"
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = os.fsdecode(line.rstrip(b"\r\n"))
            if not text.strip():
                continue
            if "\0" in text:
                raise SegopsError(
                    f"{path}:{number}: holds a zero byte, as no path does. Expected a text file "
                    "with a path, or s3://BUCKET/KEY, in each line."
                )
            kind = found.videos if text.lower().endswith(VIDEOS) else found.images
            if "://" in text:
                name = bucket.name_of(text, f"{path}:{number}")
                if kind is found.videos:
                    raise SegopsError(
                        f"{path}:{number}: a video is read from a file only. Copy {text} into one."
                    )
            else:
                text = os.path.normpath(above + text if text[0] != os.sep else text)
                name = text.removeprefix(above).lstrip(os.sep)
                if text == masks_in + name:
                    raise SegopsError(
                        f"{output}: the mask of {text} ({path}:{number}) would lie beside its "
                        "image. Give a directory of its own with --output."
                    )
            again += not kind.add(name, text)
    if not (found.images or found.videos):
        raise SegopsError(f"{path}: names no image. Expected a path in each line.")
    if again:
        log.warning("%s: %d line(s) name an image that an earlier line names.", path, again)


def list_images(source: Path, bands: Collection[str] = ()) -> list[Path]:
    """The images that :func:`find_sources` finds, without a place for outputs.

    Raises:
        SegopsError: `source` is missing or not readable, or holds files and none is an image.
    """
    if source.is_file():
        return [source]
    _require_directory(source)
    others: Counter[str] = Counter()
    found = sorted(_files(source, SUFFIXES, None, bands, others))
    if found or others:
        _tell_others(source, others, bool(found))
    return found


def _require_directory(source: Path) -> None:
    if not source.is_dir():
        raise SegopsError(f"{source}: no such file or directory. Expected images.")


def _tell_others(
    source: Path | str, others: Counter[str], has_images: bool, further: tuple[str, ...] = ()
) -> None:
    """Name the suffixes of the files that are no images: a warning, or an error without images."""
    if not has_images:
        raise SegopsError(
            f"{source}: holds no image; expected {', '.join(SUFFIXES + further)}. Passed over: "
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


def _files(
    source: Path,
    suffixes: tuple[str, ...],
    skipped: Path | None = None,
    bands: Collection[str] = (),
    others: Counter[str] | None = None,
) -> Iterator[Path]:
    """All files below `source` that end in `suffixes`, in no order.

    `skipped` is a directory's resolved path. Into `others` go the suffixes of the other files.
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
            if path.suffix.lower() in suffixes:
                yield path
            elif others is not None:
                others[path.suffix.lower()] += 1
