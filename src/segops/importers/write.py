"""Writes a data set of another format in VOC layout."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from segops import files
from segops.importers.formats import FORMATS
from segops.importers.labelling import Labelling, Rules, labelling
from segops.importers.source import Source, SourceImage, explained
from segops.importers.splits import VAL_SHARE, Division, divide, id_below, read_lists
from segops.progress import track
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE, load_photograph, read_content
from segops.runtime.masks import encode_mask
from segops.runtime.rgb import orientation
from segops.threads import cores, pipelined
from segops.voc.bands import decode_files, further_files
from segops.voc.decoding import pixels_in
from segops.voc.layout import (
    ALL_SPLITS,
    IMAGES,
    MASKS,
    PHOTOGRAPH_SUFFIXES,
    TRAIN,
    VAL,
    Layout,
    is_id,
    open_layout,
)
from segops.voc.reading import READ_AS_SHIPPED, Reading
from segops.voc.use import copy_file, without_ids
from segops.words import counted

RECORD = "import.json"
"""In the data set: where each of its files came from."""
LONGEST = 255
"""Most bytes of a file's name."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        layout: The data set.
        classes: Class names in id order.
        images: Split -> number of images.
        notes: What of the source is left out, or is not as asked for, a sentence each.
    """

    layout: Layout
    classes: tuple[str, ...]
    images: Mapping[str, int]
    notes: tuple[str, ...]


def read_source(form: str, path: Path, **options: Any) -> Source:
    """Read a data set of another format.

    Args:
        form: One of :data:`FORMATS`.
        path: Its directory or file.
        options: Further options of the format's `read`.

    Raises:
        SegopsError: There is nothing at `path`, or it holds no such data set.
    """
    if not path.exists():
        raise SegopsError(f"{path}: no such file or directory; expected {FORMATS[form]}.")
    module = import_module(f"segops.importers.{form.replace('-', '_')}")
    try:
        source: Source = module.read(path, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise SegopsError(explained(error, f"{path}: as {form}")) from error
    return source


def write(
    source: Source,
    target: Path,
    rules: Rules,
    division: Division,
    origin: Mapping[str, Any],
    unwanted: Sequence[str] = (),
    reading: Reading = READ_AS_SHIPPED,
) -> Imported:
    """Write a source in VOC layout to `target`, whole or not at all.

    Photographs keep their bytes. Masks are palette PNGs of class ids. :data:`RECORD` tells where
    each file came from.

    Args:
        source: The data set.
        target: Directory of the result; it replaces the directory there.
        rules: How labels become classes.
        division: How images are divided.
        origin: What the record says of the source: format, path, options.
        unwanted: Ids of images to leave out.
        reading: How photographs are read.

    Raises:
        SegopsError: Something is wrong with the source; all of it is listed. Or none of the
            unwanted images is in it.
    """
    images, problems = _identified(source)
    given = given_splits(images, division, problems)
    wanted = set(without_ids({"source": tuple(given)}, unwanted)["source"])
    images = [image for image in images if image.image_id in wanted]
    given = {image_id: split for image_id, split in given.items() if image_id in wanted}
    if not images:
        refuse(problems)
        raise SegopsError("the source holds no image with labels.")
    table = labelling(rules, source.labels)
    origin = {**origin, "division": {**_described(division), "given": VAL in given.values()}}
    before = _before(target, origin)
    with files.atomic_directory(target) as temporary:
        for part in (IMAGES, MASKS, *reading.bands.directories):
            (temporary / part).mkdir()
        layout, classes = Layout(temporary, reading), {}

        def put(image: SourceImage) -> tuple[str, list[int], str]:
            try:
                return image.image_id, _put(image, layout, table), ""
            except (MemoryError, OSError):  # of this machine, not of the source
                raise
            except Exception as error:
                where = f"{image.origin[0]}: the labels of {image.photograph.name}"
                return image.image_id, [], explained(error, where)

        done = pipelined(
            images,
            put,
            cores(),
            2 * cores(),
            size=lambda image: pixels_in(layout, image.photograph),
            limit=PIXELS_AT_ONCE,
        )
        for image_id, held, problem in track(done, f"importing to {target}", len(images)):
            classes[image_id] = held
            problems += [problem] if problem else []
        refuse([*problems, *table.problems()], table.remedy if table.unmapped else "")
        splits = divide(division, given, classes, before)
        for split in ALL_SPLITS:
            if ids := sorted(image_id for image_id, own in splits.items() if own == split):
                layout.write_list(split, ids)
        for image_id in set(given) - set(splits):
            layout.image_path(image_id).unlink()
            layout.mask_path(image_id).unlink()
            for band in layout.band_paths(image_id):
                band.unlink()
        files.write_json(temporary / RECORD, _record(images, splits, table.classes, origin))
        open_layout(temporary, reading)
    rest = len(given) - len(splits)
    notes = [f"{counted(rest, 'image')} of no split left out."] if rest else []
    counts = Counter(splits.values())
    if VAL not in given.values():
        divided = Counter(splits[one] for one in splits if given[one] in (None, TRAIN))
        notes += _far_from_shares(division.shares or {VAL: VAL_SHARE}, divided)
    return Imported(Layout(target, reading), table.classes, counts, (*source.notes, *notes))


def _far_from_shares(shares: Mapping[str, float], counts: Mapping[str, int]) -> list[str]:
    """Return a sentence for each split whose share is far from the one that it should have."""
    total = sum(counts.values())
    return [
        f"{split} has {counts[split]} of {total} images and should have {share:.0%}: a hash "
        "divides a few images or groups unevenly. --stratify divides them evenly."
        for split, share in shares.items()
        if abs(counts[split] - share * total) > max(1, share * total / 2)
    ]


def identified(source: Source) -> list[SourceImage]:
    """Return the images; those of the same id in different splits get the split's name before it.

    Where photographs of different directories still have the same id, all ids get the directories.

    Raises:
        SegopsError: The source has problems, or an image's id or format cannot be used.
    """
    images, problems = _identified(source)
    refuse(problems)
    return images


def _identified(source: Source) -> tuple[list[SourceImage], list[str]]:
    """Return the images that can be read, and a line on each problem with others."""
    found = source.images
    same: dict[str, list[SourceImage]] = {}
    for image in found:
        same.setdefault(image.image_id, []).append(image)
    images = []
    for image in found:
        splits = {other.split for other in same[image.image_id]}
        if len(splits) == len(same[image.image_id]) > 1 and None not in splits:
            image = replace(image, image_id=f"{image.split}_{image.image_id}")
        images.append(image)
    images = _by_directories(images)
    kept: dict[str, SourceImage] = {}
    problems = list(source.problems)
    unfit: set[str] = set()
    for image in images:
        image_id, suffix = image.image_id, image.photograph.suffix.lower()
        other = kept.setdefault(image_id, image)
        if other is not image and other.photograph == image.photograph:
            first, second = other.origin[-1], image.origin[-1]
            by = f"{first} and by {second}" if first != second else f"two images of {first}"
            problems.append(f"{image.photograph}: named by {by}. Import one of them.")
        elif other is not image:
            problems.append(
                f"{image.photograph}: would have the id {image_id}, as {other.photograph}. "
                "Rename one of them."
            )
        if suffix not in PHOTOGRAPH_SUFFIXES:
            unfit.add(image_id)
            problems.append(
                f"{image.photograph}: expected a photograph of suffix "
                f"{', '.join(PHOTOGRAPH_SUFFIXES)}. Save it as PNG."
            )
        elif (
            not is_id(image_id)
            or image_id != image_id.strip()
            or len(os.fsencode(f"{image_id}{PHOTOGRAPH_SUFFIXES[suffix]}")) > LONGEST
        ):
            unfit.add(image_id)
            problems.append(
                f"{str(image.photograph)!r}: would have the id {image_id!r}; expected printable "
                f"characters without slashes and spaces at the ends, {LONGEST} bytes with the "
                "suffix at most. Rename it or its directory."
            )
    return [image for image_id, image in kept.items() if image_id not in unfit], problems


def _by_directories(images: list[SourceImage]) -> list[SourceImage]:
    """Return the images with ids of directories and name, if names alone are not enough.

    The directories are those below the one that holds all photographs, without names of splits.
    """
    places = {image.photograph: image.image_id for image in images}
    if len(places) < len(images) or len(set(places.values())) == len(places):
        return images
    root = Path(os.path.commonpath([place.parent for place in places]))
    return [
        replace(image, image_id=id_below(image.photograph.parent.relative_to(root).parts, image_id))
        if (image_id := image.image_id) == image.photograph.stem
        else image
        for image in images
    ]


def refuse(problems: Iterable[str], remedy: str = "") -> None:
    """Refuse an import that has problems; the remedy of some of them follows the list.

    Raises:
        SegopsError: There is a problem.
    """
    lines = list(dict.fromkeys(problems))
    if lines:
        shown = "\n  ".join([*lines, *([remedy] if remedy else [])])
        raise SegopsError(f"nothing was imported; {len(lines)} problem(s):\n  {shown}")


def given_splits(
    images: Sequence[SourceImage], division: Division, problems: list[str]
) -> dict[str, str | None]:
    """Return image id -> split by the user's lists, else by the source; None where not said.

    What the lists name that is not there, or twice, becomes a line of `problems`.

    Raises:
        SegopsError: The lists cannot be read.
    """
    if division.lists is None:
        return {image.image_id: image.split for image in images}
    lists = read_lists(division.lists)
    splits, wrong = lists.match({image.photograph: image.image_id for image in images})
    problems += wrong
    return {image.image_id: splits.get(image.photograph) for image in images}


def _put(image: SourceImage, layout: Layout, table: Labelling) -> list[int]:
    """Write an image and its mask; return the ids of the classes that it holds."""
    bands = layout.reading.bands.directories
    further = further_files(image.photograph, bands)
    if len(further) != len(bands):
        raise SegopsError(
            f"{image.photograph}: no directory {' or '.join(bands)} (data.bands) beside the one "
            "that it lies in."
        )
    size, turned = _decoded(image.photograph, further, layout.reading)
    if turned != 1:
        raise SegopsError(
            f"{image.photograph}: rotated by EXIF (orientation {turned}), which would not rotate "
            "its mask. Save it with rotated pixels and without that tag."
        )
    _require_size(image, image.size or size, size)
    drawn = image.draw(size)
    _require_size(image, drawn.indices.shape[::-1], size)
    mask = table.mask(drawn, image.image_id)
    suffix = PHOTOGRAPH_SUFFIXES[image.photograph.suffix.lower()]
    copy_file(image.photograph, layout.root / IMAGES / f"{image.image_id}{suffix}")
    for name, band in zip(bands, further, strict=True):
        copy_file(band, layout.root / name / f"{image.image_id}{band.suffix}")
    layout.mask_path(image.image_id).write_bytes(encode_mask(mask))
    counts = np.bincount(mask.ravel(), minlength=VOID + 1)
    return [int(label) for label in np.flatnonzero(counts[:VOID])]


def _decoded(
    photograph: Path, further: Sequence[Path], reading: Reading
) -> tuple[tuple[int, int], int]:
    """Width and height of an image that can be decoded, and its EXIF orientation, 1 to 8."""
    if reading.bands.is_rgb:  # without a copy of the pixels
        image = load_photograph(read_content(photograph), str(photograph), reading.photographs)
        return image.size, orientation(image)
    pixels, _, _, turned = decode_files((photograph, *further), reading)
    return (pixels.shape[1], pixels.shape[0]), turned


def _require_size(image: SourceImage, size: tuple[int, ...], own: tuple[int, int]) -> None:
    if size != own:
        raise SegopsError(
            f"{image.origin[0]}: {size[0]} x {size[1]} pixels, its photograph {image.photograph} "
            f"{own[0]} x {own[1]}."
        )


def _described(division: Division) -> dict[str, Any]:
    return {
        "lists": None if division.lists is None else str(division.lists),
        "shares": dict(division.shares),
        "group": division.group,
        "stratify": division.stratify,
    }


def _before(target: Path, origin: Mapping[str, Any]) -> dict[str, str]:
    """Return image id -> split of the data in place, if they were divided in the same way."""
    try:
        record = files.read_json(target / RECORD)
        if {"given": False, **record["division"]} != origin["division"]:
            return {}
        return {image_id: str(image["split"]) for image_id, image in record["images"].items()}
    except (SegopsError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # another tool's file of this name, or none


def _record(
    images: list[SourceImage],
    splits: Mapping[str, str],
    classes: tuple[str, ...],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **origin,
        "classes": list(classes),
        "images": {
            image.image_id: {
                "photograph": str(image.photograph.absolute()),
                "labels": [str(path.absolute()) for path in image.origin],
                "split": splits[image.image_id],
            }
            for image in sorted(images, key=lambda image: image.image_id)
            if image.image_id in splits
        },
    }
