"""Put a user's own data set in VOC layout into its place."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segops.files import atomic_directory
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.voc.layout import IMAGES, LISTS, MASKS, SPLITS, Layout, open_layout

PARTS = (IMAGES, MASKS, LISTS)
JPEG_SUFFIXES = (".jpg", ".jpeg")  # VOC's spelling first
MASK_SUFFIXES = (".png",)
DEPTH = 4
FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, where the file system can.
log = logging.getLogger("segops")


@dataclass(frozen=True)
class _Copy:
    """One file of the source and its path, relative to the target, in VOC's spelling."""

    source: Path
    path: str


def use(source: Path, target: Path) -> Layout:
    """Check a directory in VOC layout and copy what its lists name to `target`.

    Images may be spelt ``.jpg``, ``.jpeg``, ``.JPG`` or ``.JPEG``; the copy is ``ID.jpg``. What no
    list names stays behind. The contents of images and masks are the validate stage's concern.

    Args:
        source: Directory with ``JPEGImages/``, ``SegmentationClass/`` and
            ``ImageSets/Segmentation/{train,val}.txt``, or one that holds exactly one such directory
            up to four levels below (``VOCdevkit/VOC2012``).
        target: Directory to put the copy at. What was there is replaced, and only once the new data
            are whole. Where `source` already is `target`, it is only checked.

    Raises:
        SegopsError: The layout is incomplete, several directories are in VOC layout, listed images
            or masks are missing (all are listed), images are PNG, or `source` lies in `target`.
    """
    found = find_layout(source)
    _check_lists(found)
    layout = open_layout(found)
    copies = _copies(layout)
    if found == target.resolve():
        _check_spelling(copies, found)
        log.info("%s: already in place, complete", target)
        return open_layout(target)
    if target.resolve() in found.parents:
        raise SegopsError(
            f"{found}: lies inside {target}, which would be replaced. Move it elsewhere first, "
            "then run the same command with its new path."
        )
    with atomic_directory(target) as temporary:
        for part in PARTS:
            (temporary / part).mkdir(parents=True)
        for copy in track(copies, f"copying to {target}"):
            try:
                copy_file(copy.source, temporary / copy.path)
            except OSError as error:
                raise SegopsError(
                    f"{copy.source}: not copied: {error}. {target} is as it was. "
                    "Mend that, then run the same command again."
                ) from None
        for split, ids in layout.splits().items():
            content = "".join(f"{one}\n" for one in ids)
            Layout(temporary).list_path(split).write_text(content, encoding="utf-8")
    return open_layout(target)


def find_layout(source: Path) -> Path:
    """The one directory in VOC layout at or below `source`, resolved.

    Hidden directories are not searched, and nothing below a directory that is one.

    Raises:
        SegopsError: There is none (what is missing is said), or more than one (all are listed).
    """
    if not source.is_dir():
        raise SegopsError(f"{source}: no such directory. Expected one in VOC layout.")
    source = source.resolve()
    found = list(dict.fromkeys(one.resolve() for one in _layouts(source, DEPTH)))
    if len(found) > 1:
        raise SegopsError(
            "\n  ".join([f"{source}: several directories are in VOC layout; name one of them:"])
            + "".join(f"\n  {one}" for one in found)
        )
    if not found:
        missing = [f"{part}/" for part in PARTS if not (source / part).is_dir()]
        raise SegopsError(
            f"{source}: not in VOC layout: {', '.join(missing)} missing, and no directory below "
            f"holds all of {', '.join(f'{part}/' for part in PARTS)}. Expected JPEGImages/ID.jpg, "
            "SegmentationClass/ID.png and ImageSets/Segmentation/{train,val}.txt with one ID a "
            "line."
        )
    return found[0]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; where the file system can, both share their blocks."""
    if sys.platform == "linux":
        import fcntl

        with source.open("rb") as reader, target.open("wb") as writer:
            try:
                fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
                return
            except OSError:
                pass  # Most file systems cannot; the plain copy below then does it.
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


def _check_lists(root: Path) -> None:
    """Say how to make a val list, which many data sets of one's own do not have yet."""
    train, val = (Layout(root).list_path(split) for split in SPLITS)
    if train.is_file() and not val.is_file():
        raise SegopsError(
            f"{val}: no such file, and the pipeline needs images that it does not train on. To set "
            f"every tenth image of train.txt aside, run this in {train.parent}:\n"
            "  cp train.txt all.txt\n"
            "  awk 'NR % 10 == 0' all.txt > val.txt\n"
            "  awk 'NR % 10 != 0' all.txt > train.txt\n"
            "If neighbouring lines show the same scene, choose whole scenes instead."
        )


def _copies(layout: Layout) -> list[_Copy]:
    """Pair every listed id with its image and mask.

    Raises:
        SegopsError: Some are missing; all of them are listed.
    """
    ids = sorted({one for ids in layout.splits().values() for one in ids})
    copies: list[_Copy] = []
    bad: list[str] = []
    for part, suffixes in ((IMAGES, JPEG_SUFFIXES), (MASKS, MASK_SUFFIXES)):
        files = _by_stem(layout.root / part)
        for image_id in ids:
            name = f"{part}/{image_id}{suffixes[0]}"
            here = files.get(image_id, [])
            fitting = [path for path in here if path.suffix.lower() in suffixes]
            best = [path for path in fitting if path.suffix == suffixes[0]] or fitting
            if len(best) == 1:
                copies.append(_Copy(best[0], name))
            elif best:
                bad.append(f"{name}: several candidates: {_names(best)}; keep one")
            else:
                bad.append(f"{name}: missing" + (f"; there is {_names(here)}" if here else ""))
    if bad:
        png = any(line.startswith(IMAGES) and line.lower().endswith(".png") for line in bad)
        raise SegopsError(
            "\n  ".join([f"{layout.root}: {len(bad)} file(s) that the lists name:", *bad])
            + (f"\n{_convert(layout.root / IMAGES)}" if png else "")
        )
    return copies


def _by_stem(directory: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        if path.is_file():
            files.setdefault(path.stem, []).append(path)
    return files


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _convert(images: Path) -> str:
    return (
        "Images must be JPEG. To convert the PNG images beside the originals, at a quality where "
        "no difference is seen, run this with Python:\n"
        "  from pathlib import Path; from PIL import Image\n"
        f"  for p in Path({str(images)!r}).glob('*.png'):\n"
        "      Image.open(p).convert('RGB').save(p.with_suffix('.jpg'), quality=95, subsampling=0)"
    )


def _check_spelling(copies: Iterable[_Copy], root: Path) -> None:
    """Refuse other spellings than VOC's where no copy mends them.

    Raises:
        SegopsError: Files are to be renamed; all of them are listed.
    """
    other = [copy for copy in copies if copy.source != root / copy.path]
    if other:
        raise SegopsError(
            "\n  ".join(
                [f"{root}: rename {len(other)} file(s), or use a copy elsewhere:"]
                + [f"{copy.source} -> {Path(copy.path).name}" for copy in other]
            )
        )
