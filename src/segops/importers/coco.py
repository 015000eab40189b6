"""Reads COCO's object annotations: polygons and run-length encodings.

Source: the format of https://cocodataset.org/#format-data. Where objects overlap the smaller lies
over the larger, as annotators draw it. Regions of `iscrowd` have their class. Pixels without an
object are background.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from segops.importers.files import Photographs, files_below
from segops.importers.json_files import identifier, read_object, read_tree, require, stated_size
from segops.importers.polygons import checked, points
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage, explained, noted
from segops.importers.splits import SPELLINGS, split_of_path
from segops.progress import track
from segops.runtime.errors import SegopsError

Tree = Mapping[str, Any]


def read(path: Path, images: str | None = None) -> Source:
    """Read one annotation file, or all of a directory that have outlines of objects.

    Args:
        path: A JSON file, or a directory with such files (also in ``annotations/``).
        images: Directory of the photographs; None: they are searched beside the annotations.

    Raises:
        SegopsError: There is no annotation file, or it cannot be read.
    """
    trees = annotation_files(path, "COCO file with outlines of objects", _has_outlines)
    photographs = Photographs(path, images)
    names: dict[str, None] = {BACKGROUND: None}
    found: list[SourceImage] = []
    problems: list[str] = []
    for file, tree in trees.items():
        categories = read_categories(tree, file)
        names |= dict.fromkeys(categories.values())
        entries = read_images(tree, file, problems)
        by_image: dict[int | str, list[Tree]] = defaultdict(list)
        for annotation in tree["annotations"]:
            by_image[identifier(annotation, "image_id", file)].append(annotation)
        for number, entry in track(entries.items(), f"reading {file}"):
            own = by_image.pop(number, [])
            with noted(problems, file):
                photograph, size, split = described(entry, file, path, photographs)
                draw = partial(_draw, file, own, categories)
                found.append(SourceImage(photograph.stem, photograph, (file,), draw, split, size))
        problems += orphans(by_image, file)
    notes = photographs.unnamed(image.photograph for image in found)
    return Source(tuple(found), tuple(names), tuple(problems), notes)


def annotation_files(
    path: Path, what: str, fits: Callable[[Tree], bool]
) -> dict[Path, dict[str, Any]]:
    """Return file -> content of the annotation files at a path, `what` in messages.

    Raises:
        SegopsError: There is none, or a file is no JSON.
    """
    if path.is_file():
        trees = {path: read_object(path)}
    else:
        files = track(files_below(path, (".json",)), f"reading {path}")
        trees = {file: read_tree(file) for file in files}
    trees = {file: tree for file, tree in trees.items() if _is_coco(tree) and fits(tree)}
    if not trees:
        raise SegopsError(
            f"{path}: holds no {what} (JSON with `images`, `annotations` and `categories`)."
        )
    return trees


def _is_coco(tree: Any) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(tree, Mapping) and all(isinstance(tree.get(key), list) for key in keys)


def _has_outlines(tree: Tree) -> bool:
    """Say whether objects have outlines, and no keypoints, which repeat the objects of others."""
    keypoints = any("keypoints" in one for one in tree["categories"] if isinstance(one, Mapping))
    held = [one for one in tree["annotations"] if isinstance(one, Mapping)]
    return not keypoints and (not held or any("segmentation" in one for one in held))


def read_categories(tree: Tree, file: Path) -> dict[int, str]:
    """Return category id -> name, in the order of the ids.

    Raises:
        SegopsError: A category lacks an id or a name, or an id is given twice.
    """
    names: dict[int, str] = {}
    for category in tree["categories"]:
        number, name = require(category, "id", file, int), require(category, "name", file, str)
        if number in names:
            raise SegopsError(f"{file}: category id {number} is given twice.")
        names[number] = name
    return dict(sorted(names.items()))


def read_images(tree: Tree, file: Path, problems: list[str]) -> dict[int | str, Tree]:
    """Return image id -> entry; an entry that has no id of its own becomes a problem."""
    entries: dict[int | str, Tree] = {}
    for entry in tree["images"]:
        with noted(problems, file):
            number = identifier(entry, "id", file)
            if number in entries:
                raise SegopsError(f"{file}: image id {number} is given twice")
            entries[number] = entry
    return entries


def orphans(by_image: Mapping[int | str, Sequence[Tree]], file: Path) -> list[str]:
    """Return a line on annotations that belong to no image."""
    if not by_image:
        return []
    count, shown = sum(map(len, by_image.values())), list(by_image)[:5]
    return [f"{file}: {count} annotation(s) of images that are not there: image_id {shown}"]


def described(
    entry: Tree, file: Path, source: Path, photographs: Photographs
) -> tuple[Path, tuple[int, int] | None, str | None]:
    """Return an image's photograph, its stated size, and its split.

    The split is that in the name of the annotation file (``instances_val2017.json``), else that of
    a directory of this file or of the photograph.

    Raises:
        SegopsError: The photograph cannot be told, or the entry lacks a value.
    """
    name = require(entry, "file_name", file, str)
    below = file.relative_to(source) if file != source else Path(file.name)
    split = split_of(file.stem) or split_of_path(below)
    photograph = photographs.find(
        name, file.parent, file, lambda path: split in map(split_of, path.parts[:-1])
    )
    split = split or split_of_path(photograph.relative_to(photographs.root))
    return photograph, stated_size(entry, "width", "height", f"{file}: image {name}"), split


def split_of(name: str) -> str | None:
    """Return the split in a name, such as ``instances_val2017``; None without one."""
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", name.lower())]
    splits = [SPELLINGS[word] for word in words if word in SPELLINGS]
    return splits[0] if splits else None


def _draw(
    file: Path,
    annotations: Sequence[Tree],
    categories: Mapping[int, str],
    size: tuple[int, int],
) -> Drawn:
    width, height = size
    indices = np.zeros((height, width), np.int32)
    places = {number: index for index, number in enumerate(categories, 1)}
    regions = []
    for annotation in annotations:
        where = f"{file}: annotation {annotation.get('id')}"
        category = require(annotation, "category_id", where, int)
        if category not in places:
            raise SegopsError(f"{where}: category {category} is not in `categories`.")
        try:
            region = _encoded(annotation.get("segmentation"), size)
        except MemoryError:
            raise
        except Exception as error:  # pycocotools raises whatever its parts raise on broken values
            said = explained(error, f"{where}, `segmentation`")
            raise SegopsError(f"{said}.") from error
        regions.append((int(rle.area(region)), places[category], region))
    for _, place, region in sorted(regions, key=lambda item: -item[0]):
        left, top, across, down = (int(value) for value in rle.toBbox(region))
        part = slice(top, top + down), slice(left, left + across)
        indices[part][rle.decode(region)[part].astype(bool)] = place
    return Drawn((BACKGROUND, *categories.values()), indices)


def _encoded(segmentation: Any, size: tuple[int, int]) -> Any:
    """Return an object's pixels as pycocotools' run-length encoding."""
    width, height = size
    if isinstance(segmentation, list):
        if not segmentation:
            raise ValueError("an object with a box and no outline; outline it, or delete it")
        for outline in segmentation:
            if not isinstance(outline, list) or len(outline) % 2:
                raise ValueError("expected a list of outlines, each x, y, x, y, …")
            checked(points([outline[at : at + 2] for at in range(0, len(outline), 2)]), size)
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("expected a list of outlines, or an object with `size` and `counts`")
    given, counts = segmentation["size"], segmentation["counts"]
    if given != [height, width]:
        raise ValueError(f"its size is {given} (height, width), its photograph {height} x {width}")
    if not isinstance(counts, (str, list)):
        raise ValueError("expected `counts` as a text or as a list of whole numbers")
    runs = decompressed(counts) if isinstance(counts, str) else counts
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != width * height:
        raise ValueError(f"its runs are not those of {width} x {height} pixels")
    return rle.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def decompressed(text: str) -> list[int]:
    """Return the runs of a string of COCO's: groups of 5 bits, from the third on as differences.

    Source: ``rleFrString`` of pycocotools, which checks nothing.

    Raises:
        ValueError: It is cut off, or holds another character.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"run lengths with {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that are cut off")
    return runs
