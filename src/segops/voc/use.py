"""Put a user's own data set in VOC layout into its place."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from segops.files import atomic_directory
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.voc.layout import (
    BAND_SUFFIXES,
    IMAGES,
    LISTS,
    MASKS,
    PHOTOGRAPH_SUFFIXES,
    TEST,
    Layout,
    open_layout,
)
from segops.voc.list_lines import require_ids, stripped
from segops.voc.metadata import copy_without
from segops.voc.reading import READ_AS_SHIPPED, Reading

PARTS = (IMAGES, MASKS, LISTS)
MASK_SUFFIXES = {".png": ".png"}
DEPTH = 4
FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the file system can.
log = logging.getLogger("segops")


class LayoutError(SegopsError):
    """A directory is not in VOC layout, or lacks a part of it; an import may take it as it is."""


def use(
    source: Path,
    target: Path,
    unwanted: Sequence[str] = (),
    reading: Reading = READ_AS_SHIPPED,
    strip: bool = False,
    metadata: str | None = None,
    unlabelled: str | None = None,
) -> Layout:
    """Check a directory in VOC layout and copy the files that its lists name to `target`.

    Photographs are JPEG, PNG, TIFF or WebP, their suffixes in any spelling; the copy has that of
    :data:`segops.voc.layout.PHOTOGRAPH_SUFFIXES`. Stage validate checks the contents of images and
    masks.

    Args:
        source: The directory, or one that holds exactly one such directory up to four levels below
            (``VOCdevkit/VOC2012``).
        target: Directory of the copy. It replaces the directory there once the new data are whole.
            Where `source` already is `target`, it is only checked, or copied without the
            unwanted.
        unwanted: Ids of images to leave out.
        reading: How the files are read; further directories of bands are copied too.
        strip: Take the ids out of lines that hold columns, a directory or a suffix too, or spell
            them in another case or Unicode form, and so out of the first cells of the metadata.
        metadata: Name of the file of metadata, of which the rows of the copied images are copied.
        unlabelled: Name of a list of images without masks, which are copied too; None: there is
            none.

    Raises:
        LayoutError: The layout is incomplete, or listed images or masks are missing (all are
            listed).
        SegopsError: Lines of the lists are to be stripped, several directories are in VOC layout,
            or `source` lies in `target`; or as :func:`without_ids`.
    """
    root = find_layout(source)
    if target.resolve() in root.parents:
        raise SegopsError(
            f"{root}: lies inside {target}, which would be replaced. Move it elsewhere first, "
            "then run the same command with its new path."
        )
    if strip:
        with stripped(root, reading.bands.directories, unlabelled, metadata) as other:
            return use(other, target, unwanted, reading, metadata=metadata, unlabelled=unlabelled)
    require_ids(root, f"segops data use {shlex.quote(str(source))} --strip", unlabelled)
    try:
        layout = open_layout(root, reading, unlabelled)
    except SegopsError as error:
        raise LayoutError(str(error)) from None
    lists = layout.splits() | ({} if unlabelled is None else {unlabelled: layout.unlabelled_ids()})
    splits = without_ids(lists, unwanted)
    copies = _copies(layout, splits)
    without = layout.test_without_masks()
    if without:
        log.warning(
            "%s: left out, since %d of its %d images have no mask: a test split is scored.",
            layout.list_path(TEST), len(without), len(layout.ids(TEST)),
        )  # fmt: skip
    if root == target.resolve() and not unwanted:
        _check_spelling(copies, root)
        log.info("%s: already in place, complete", target)
        return open_layout(target, reading, unlabelled)
    with atomic_directory(target) as temporary:
        for part in (IMAGES, MASKS, *reading.bands.directories):
            (temporary / part).mkdir()
        for path, original in track(copies.items(), f"copying to {target}", len(copies)):
            try:
                copy_file(original, temporary / path)
            except OSError as error:
                raise SegopsError(
                    f"{original}: not copied: {error}. {target} is as it was. "
                    "Mend that, then run the same command again."
                ) from None
        for split, ids in splits.items():
            Layout(temporary).write_list(split, ids)
        if metadata is not None and (root / metadata).is_file():
            kept = {image_id for ids in splits.values() for image_id in ids}
            count = copy_without(root / metadata, temporary / metadata, kept)
            if count:
                log.warning(
                    "%s: %d row(s) left out, of images that are not copied.", root / metadata, count
                )
    return open_layout(target, reading, unlabelled)


def without_ids(
    splits: Mapping[str, Sequence[str]], unwanted: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The ids of each split without the unwanted ones; a line says how many are left out.

    Raises:
        SegopsError: None of the unwanted ids is there, or a split but test has no other.
    """
    these = frozenset(unwanted)
    left = {split: tuple(one for one in ids if one not in these) for split, ids in splits.items()}
    count = sum(len(ids) - len(left[split]) for split, ids in splits.items())
    if unwanted and not count:
        raise SegopsError(
            f"none of the {len(unwanted)} images to leave out is in the data; the first is "
            f"{unwanted[0]!r}. Give a list of ids, one a line."
        )
    for split, ids in splits.items():
        if split != TEST and ids and not left[split]:
            raise SegopsError(f"{split}: all {len(ids)} images would be left out.")
    if unwanted:
        log.info("%d of the %d images of the list left out.", count, len(unwanted))
    return {split: ids for split, ids in left.items() if ids or split != TEST}


def find_layout(source: Path) -> Path:
    """The only directory in VOC layout at or below `source`, resolved.

    Hidden directories are not searched, nor anything below a directory in VOC layout.

    Raises:
        LayoutError: There is none; the message says what is missing.
        SegopsError: There is more than one (all are listed).
    """
    if not source.is_dir():
        raise SegopsError(f"{source}: no such directory. Expected one in VOC layout.")
    source = source.resolve()
    layouts = list(dict.fromkeys(path.resolve() for path in _layouts(source, DEPTH)))
    if len(layouts) > 1:
        first = f"{source}: several directories are in VOC layout; name one of them:"
        raise SegopsError("\n  ".join([first, *map(str, layouts)]))
    if not layouts:
        missing = [f"{part}/" for part in PARTS if not (source / part).is_dir()]
        raise LayoutError(
            f"{source}: not in VOC layout: {', '.join(missing)} missing, and no directory below "
            f"holds all of {', '.join(f'{part}/' for part in PARTS)}. Expected JPEGImages/ID.jpg, "
            "SegmentationClass/ID.png and ImageSets/Segmentation/{train,val}.txt with one ID a "
            f"line. `segops data import folder {shlex.quote(str(source))}` takes other directories "
            "of photographs and masks; `segops data import --help` names further formats."
        )
    return layouts[0]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; where the file system can, both share their blocks."""
    if sys.platform == "linux":
        import fcntl

        with source.open("rb") as reader, target.open("wb") as writer:
            try:
                fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
                return
            except OSError:
                pass  # Most file systems cannot share blocks; the plain copy below follows.
    shutil.copyfile(source, target)


def _layouts(directory: Path, depth: int) -> Iterator[Path]:
    if all((directory / part).is_dir() for part in PARTS):
        yield directory
    elif depth > 0:
        with os.scandir(directory) as entries:
            below = sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
        for name in below:
            yield from _layouts(directory / name, depth - 1)


def _copies(layout: Layout, splits: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """The files of every id in the splits by their path in the copy, in VOC's spelling.

    Raises:
        LayoutError: Some are missing; all of them are listed.
    """
    photographs = {image_id for ids in splits.values() for image_id in ids}
    without_masks = photographs.difference(
        *(ids for split, ids in splits.items() if split != layout.unlabelled)
    )
    copies: dict[str, Path] = {}
    bad: list[str] = []
    further = [(name, BAND_SUFFIXES) for name in layout.reading.bands.directories]
    for part, suffixes in ((IMAGES, PHOTOGRAPH_SUFFIXES), (MASKS, MASK_SUFFIXES), *further):
        by_id: dict[str, list[Path]] = {}
        for path in sorted((layout.root / part).iterdir()):
            if not path.is_dir():
                by_id.setdefault(path.stem, []).append(path)
        for image_id in sorted(photographs - without_masks if part == MASKS else photographs):
            usual = next(iter(suffixes.values()))
            name = f"{part}/{image_id}{usual}"
            here = by_id.get(image_id, [])
            fitting = [path for path in here if path.suffix.lower() in suffixes]
            best = [path for path in fitting if path.suffix == usual] or fitting
            names = ", ".join(path.name for path in best or here)
            if len(best) == 1 and not best[0].is_file():
                bad.append(f"{part}/{best[0].name}: missing; it is no file, or a dead link")
            elif len(best) == 1:
                copies[f"{part}/{image_id}{suffixes[best[0].suffix.lower()]}"] = best[0]
            elif best:
                bad.append(f"{name}: several candidates: {names}; keep one")
            else:
                bad.append(f"{name}: missing" + (f"; there is {names}" if here else ""))
    if bad:
        raise LayoutError(
            "\n  ".join([f"{layout.root}: {len(bad)} file(s) that the lists name:", *bad])
        )
    return copies


def _check_spelling(copies: Mapping[str, Path], root: Path) -> None:
    """Refuse other spellings than VOC's where no copy mends them.

    Raises:
        LayoutError: Files are to be renamed; all of them are listed.
    """
    other = [f"{file} -> {Path(path).name}" for path, file in copies.items() if file != root / path]
    if other:
        first = f"{root}: rename {len(other)} file(s), or use a copy elsewhere:"
        raise LayoutError("\n  ".join([first, *other]))
