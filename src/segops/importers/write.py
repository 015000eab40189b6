"""Writes a data set of another format in VOC layout."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from segops import files
from segops.importers.formats import FORMATS
from segops.importers.labelling import Labelling, Rules, labelling
from segops.importers.source import Source, SourceImage
from segops.importers.splits import ALL_SPLITS, Division, divide, listed_split, stem
from segops.progress import track
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import load_photograph, orientation, read_content
from segops.runtime.masks import encode_mask
from segops.threads import cores, pipelined
from segops.voc.layout import IMAGES, MASKS, PHOTOGRAPH_SUFFIXES, Layout, open_layout
from segops.voc.use import copy_file

RECORD = "import.json"
"""In the data set: where each of its files came from."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        layout: The data set.
        classes: Class names in id order.
        images: Split -> number of images.
        left_out: Images of the source that are in no split.
    """

    layout: Layout
    classes: tuple[str, ...]
    images: Mapping[str, int]
    left_out: int


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
    source: Source = import_module(f"segops.importers.{form.replace('-', '_')}").read(
        path, **options
    )
    return source


def write(
    source: Source, target: Path, rules: Rules, division: Division, origin: Mapping[str, Any]
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

    Raises:
        SegopsError: Something is wrong with the source; all of it is listed.
    """
    images, problems = _identified(source.images)
    _refuse([*source.problems, *problems])
    if not images:
        raise SegopsError("the source holds no image with labels.")
    table = labelling(rules, source.labels)
    given = _given(images, division)
    origin = {**origin, "division": _described(division)}
    before = _before(target, origin)
    with files.atomic_directory(target) as temporary:
        for part in (IMAGES, MASKS):
            (temporary / part).mkdir()
        layout, classes = Layout(temporary), {}

        def put(image: SourceImage) -> tuple[str, list[int], str]:
            try:
                return image.image_id, _put(image, layout, table), ""
            except SegopsError as error:
                return image.image_id, [], str(error)

        done = pipelined(images, put, cores(), 2 * cores())
        for image_id, held, problem in track(done, f"importing to {target}", len(images)):
            classes[image_id] = held
            problems += [problem] if problem else []
        _refuse([*problems, *table.problems()])
        splits = divide(division, given, classes, before)
        for split in ALL_SPLITS:
            ids = [image_id for image_id in sorted(splits) if splits[image_id] == split]
            if ids:
                layout.write_list(split, ids)
        for image_id in set(given) - set(splits):
            layout.image_path(image_id).unlink()
            layout.mask_path(image_id).unlink()
        files.write_json(temporary / RECORD, _record(images, splits, table.classes, origin))
    return Imported(
        open_layout(target), table.classes, Counter(splits.values()), len(given) - len(splits)
    )


def _identified(images: tuple[SourceImage, ...]) -> tuple[list[SourceImage], list[str]]:
    """Return the images, and a line for each whose id is taken or whose format is not read."""
    kept: dict[str, SourceImage] = {}
    problems = []
    for image in images:
        other = kept.setdefault(image.image_id, image)
        if other is not image:
            problems.append(
                f"{image.photograph}: would have the id {image.image_id}, as {other.photograph}. "
                "Rename one of them."
            )
        if image.photograph.suffix.lower() not in PHOTOGRAPH_SUFFIXES:
            problems.append(
                f"{image.photograph}: expected a photograph of suffix "
                f"{', '.join(PHOTOGRAPH_SUFFIXES)}. Save it as PNG."
            )
    return list(kept.values()), problems


def _refuse(problems: list[str]) -> None:
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise SegopsError(f"nothing was imported; {len(problems)} problem(s):\n  {lines}")


def _given(images: list[SourceImage], division: Division) -> dict[str, str | None]:
    """Return image id -> split by the user's lists, else by the source; None where not said."""
    listed = listed_split(division)
    if listed is None:
        return {image.image_id: image.split for image in images}
    given = {
        image.image_id: listed.get(image.image_id, listed.get(stem(image.photograph.name)))
        for image in images
    }
    known = set(given) | {stem(image.photograph.name) for image in images}
    if absent := sorted(set(listed) - known):
        shown = ", ".join(absent[:20]) + (", …" if len(absent) > 20 else "")
        raise SegopsError(f"{division.lists}: {len(absent)} listed images are not there: {shown}.")
    return given


def _put(image: SourceImage, layout: Layout, table: Labelling) -> list[int]:
    """Write an image and its mask; return the ids of the classes that it holds."""
    content = read_content(image.photograph)
    photograph = load_photograph(content, str(image.photograph))
    if (turned := orientation(photograph)) != 1:
        raise SegopsError(
            f"{image.photograph}: rotated by EXIF (orientation {turned}), which would not rotate "
            "its mask. Save it with rotated pixels and without that tag."
        )
    drawn = image.draw(photograph.size)
    height, width = drawn.indices.shape
    if (width, height) != photograph.size:
        raise SegopsError(
            f"{image.origin[0]}: {width} x {height} pixels, its photograph "
            f"{photograph.width} x {photograph.height}."
        )
    mask = table.mask(drawn, image.image_id)
    suffix = PHOTOGRAPH_SUFFIXES[image.photograph.suffix.lower()]
    copy_file(image.photograph, layout.root / IMAGES / f"{image.image_id}{suffix}")
    layout.mask_path(image.image_id).write_bytes(encode_mask(mask))
    return [int(label) for label in set(mask.ravel().tolist()) - {VOID}]


def _described(division: Division) -> dict[str, Any]:
    return {
        "lists": None if division.lists is None else str(division.lists),
        "shares": dict(division.shares),
        "group": division.group,
        "stratify": division.stratify,
    }


def _before(target: Path, origin: Mapping[str, Any]) -> dict[str, str]:
    """Return image id -> split of the data in place, if they were divided in the same way."""
    path = target / RECORD
    if not path.is_file():
        return {}
    record = files.read_json(path)
    if record.get("division") != origin["division"]:
        return {}
    return {image_id: str(image["split"]) for image_id, image in record["images"].items()}


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
                "photograph": str(image.photograph),
                "labels": [str(path) for path in image.origin],
                "split": splits[image.image_id],
            }
            for image in sorted(images, key=lambda image: image.image_id)
            if image.image_id in splits
        },
    }
