"""Finds the import that takes a directory which `segops data use` refuses."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import product, takewhile
from pathlib import Path

import numpy as np

from segops.importers import folder
from segops.importers.source import SourceImage, load_labels
from segops.importers.splits import SPELLINGS, Division, divide, find_lists, read_lists
from segops.importers.write import given_splits, identified, refuse
from segops.params.data import DataParams
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import PHOTOGRAPH_FORMATS, read_content
from segops.voc.layout import IMAGES, LISTS, MASKS, PHOTOGRAPH_SUFFIXES, TRAIN, VAL
from segops.voc.use import find_layout

LOOKED_AT = 20
"""Masks that tell which labels the others hold."""
SHARE = "val=0.2"


def remedy(source: Path, data: DataParams) -> str:
    """Return lines with the import of format `folder` that takes `source`; "" where none does.

    Names of files are matched as the import matches them, and a few masks are read for their
    labels.

    Args:
        source: What `segops data use` refuses.
        data: The section of the parameters, for the names of the classes.
    """
    try:
        root = find_layout(source)
    except SegopsError:
        root = source.resolve()
    if not all((root / part).is_dir() for part in (IMAGES, MASKS)):
        return ""
    for lists, patterns in product(_lists(root), _patterns(root)):
        try:
            options, images = _tried(root, lists, patterns)
            options += _labels(images, data)
        except (SegopsError, OSError):
            continue
        words = ["segops", "data", "import", "folder", str(root), *options]
        lines = ["This import takes it:", f"  {shlex.join(words)}"]
        notes = "Name other classes in id order. " if "--classes" in options else ""
        notes += "--group keeps images of a scene together." if "--share" in options else ""
        return "\n".join([*lines, notes]).rstrip()
    return ""


def _lists(root: Path) -> Iterator[Path | None]:
    """Yield what may stand behind `--lists`; None: nothing, all images are divided.

    Where both train and val have a list, the user has divided the images, and nothing else may.
    """
    for directory in (root / LISTS, root):
        if {TRAIN, VAL} <= {SPELLINGS.get(path.stem.lower()) for path in directory.glob("*.txt")}:
            yield directory
            return
        try:
            if directory.is_dir() and find_lists(directory):
                yield directory
        except (SegopsError, OSError):
            continue
        yield from filter(Path.is_file, (directory / f"{name}.txt" for name in ("trainval", TRAIN)))
    yield None


def _patterns(root: Path) -> list[tuple[str, str] | None]:
    """Return what may stand behind `--images` and `--masks`; None: nothing."""
    patterns = []
    for name in (IMAGES, MASKS):
        directory = root / name
        paths = [*directory.iterdir()] if directory.is_dir() else []
        files = [path for path in paths if path.suffix.lower() in PHOTOGRAPH_SUFFIXES]
        if not files:
            return [None]
        stems = [path.stem for path in files]
        start = re.sub(r"\d+$", "", _shared_start(stems))
        end = re.sub(r"^\d+", "", _shared_start([one[len(start) :][::-1] for one in stems])[::-1])
        suffixes = {path.suffix for path in files}
        suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
        patterns.append(f"{name}/{glob.escape(start)}*{glob.escape(end)}{suffix}")
    return [None, (patterns[0], patterns[1])]


def _shared_start(texts: Sequence[str]) -> str:
    pairs = zip(min(texts), max(texts), strict=False)
    return "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _tried(
    root: Path, lists: Path | None, patterns: tuple[str, str] | None
) -> tuple[list[str], list[SourceImage]]:
    """Return the options of an import as far as the files' names go, and its images.

    Raises:
        SegopsError: It would be refused.
    """
    images, masks = patterns or (None, None)
    options = ["--images", images, "--masks", masks] if images and masks else []
    division = Division(lists)
    read = folder.read(root, images, masks, lists=read_lists(lists) if lists else None)
    found = identified(read)
    problems: list[str] = []
    splits = given_splits(found, division, problems)
    refuse(problems)
    divide(division, splits, {}, {})
    options += [] if lists is None else ["--lists", str(lists)]
    options += [] if VAL in splits.values() else ["--share", SHARE]
    return options, [image for image in found if lists is None or splits[image.image_id]]


def _labels(images: Sequence[SourceImage], data: DataParams) -> list[str]:
    """Return the options that name the classes of the labels in the masks.

    Raises:
        SegopsError: A mask cannot be read.
    """
    masks = [image.origin[0] for image in images]
    if any(mask.suffix.lower() in (".jpg", ".jpeg") for mask in masks):
        if not all(map(_has_two_values, masks[:LOOKED_AT])):
            raise SegopsError("JPEG has changed the labels of several classes")
        return ["--threshold", "128"]
    met = {label for image in images[:LOOKED_AT] for label in image.draw((0, 0)).labels}
    if any(label.startswith("#") for label in met):
        return ["--colors", "voc"]
    names = data.class_names
    if any(set(name) & {",", "="} or name != name.strip() for name in names):
        raise SegopsError("an option cannot hold these names")
    if met == {"0", str(VOID)}:
        two = names if len(names) == 2 else ("background", "foreground")
        return ["--values", f"0={two[0]},{VOID}={two[1]}"]
    if data.reading.mask_ids.ids is not None:
        ids = zip(data.reading.mask_ids.ids, names, strict=True)
        values = [f"{one}={name}" for own, name in ids for one in own]
        ignored = [str(one) for one in (*data.ignore, VOID)]
        return ["--values", ",".join(values), "--ignore", ",".join(ignored)]
    if not met <= set(folder.names_of_ids(names)):
        names = tuple(f"class{number}" for number in range(max(map(int, met - {str(VOID)})) + 1))
    return ["--classes", "voc" if names == VOC_CLASSES else ",".join(names)]


def _has_two_values(mask: Path) -> bool:
    """Whether nearly all values of a grey JPEG are those of black and white, and some are white."""
    content = read_content(mask)
    image = load_labels(content, str(mask), PHOTOGRAPH_FORMATS, (0, 0))
    values = np.asarray(image.convert("L"))
    white = values > 253
    return bool(white.any() and (white | (values < 2)).mean() > 0.75)
