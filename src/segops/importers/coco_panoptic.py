"""Reads COCO's panoptic annotations: a PNG of segment ids for each image, and their categories.

Source: the format of https://cocodataset.org/#format-data. A segment's id is R + 256 G + 65536 B.
Pixels of id 0 are void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segops.importers.coco import annotation_files, described, orphans, read_categories, read_images
from segops.importers.files import Photographs
from segops.importers.json_files import identifier, require
from segops.importers.source import (
    VOID_NAME,
    Drawn,
    Source,
    SourceImage,
    indexed,
    load_labels,
    noted,
)
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS, read_content


def read(path: Path, images: str | None = None) -> Source:
    """Read one annotation file, or all of a directory; see :func:`segops.importers.coco.read`.

    The segments of ``NAME.json`` lie in the directory ``NAME`` beside it.

    Raises:
        SegopsError: There is no such file, it cannot be read, or its directory is missing.
    """
    found: list[SourceImage] = []
    names: dict[str, None] = {}
    problems: list[str] = []
    trees = annotation_files(path, "panoptic file", _is_panoptic)
    masks = {file: file.with_suffix("") for file in trees}
    for file, directory in masks.items():
        if not directory.is_dir():
            raise SegopsError(
                f"{directory}: no such directory; {file.name} has its segments there."
            )
    photographs = Photographs(path, images, set(masks.values()))
    for file, tree in trees.items():
        categories = read_categories(tree, file)
        names |= dict.fromkeys(categories.values())
        entries = read_images(tree, file, problems)
        lost: dict[int | str, list[Any]] = {}
        for annotation in track(tree["annotations"], f"reading {file}"):
            with noted(problems, file):
                number = identifier(annotation, "image_id", file)
                if number not in entries:
                    lost.setdefault(number, []).append(annotation)
                    continue
                photograph, size, split = described(entries[number], file, path, photographs)
                mask = _mask(masks[file], require(annotation, "file_name", file, str))
                segments = require(annotation, "segments_info", file, list)
                draw = partial(_draw, file, mask, segments, categories)
                origin = (mask, file)
                found.append(SourceImage(photograph.stem, photograph, origin, draw, split, size))
        problems += orphans(lost, file)
    notes = photographs.unnamed(image.photograph for image in found)
    return Source(tuple(found), tuple(names), tuple(problems), notes)


def _mask(directory: Path, name: str) -> Path:
    """Return the file that an annotation names, by its path within a directory or its name."""
    given = PurePosixPath(name.replace("\\", "/"))
    is_below = not given.is_absolute() and ".." not in given.parts
    return found if is_below and (found := directory / given).is_file() else directory / given.name


def _is_panoptic(tree: Mapping[str, Any]) -> bool:
    held = [one for one in tree["annotations"] if isinstance(one, Mapping)]
    return any("segments_info" in one for one in held)


def _draw(
    file: Path,
    mask: Path,
    segments: Sequence[Any],
    categories: Mapping[int, str],
    size: tuple[int, int],
) -> Drawn:
    content = read_content(mask)
    image = load_labels(content, str(mask), MASK_FORMATS, size)
    if image.mode not in ("RGB", "RGBA"):
        raise SegopsError(f"{mask}: mode {image.mode}; expected segment ids as RGB.")
    rgb = np.asarray(image).astype(np.int32)
    keys, indices = indexed(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2])
    labels = (VOID_NAME, *categories.values())
    places = {category: index for index, category in enumerate(categories, 1)}
    table = {0: 0}
    for segment in segments:
        category = require(segment, "category_id", file, int)
        if category not in places:
            raise SegopsError(f"{file}: category {category} is not in `categories`.")
        number = require(segment, "id", file, int)
        if number in table:
            said = "0, which is void" if number == 0 else f"{number}, which is given twice"
            raise SegopsError(f"{file}: {mask.name}: a segment has the id {said}.")
        table[number] = places[category]
    if unknown := [str(key) for key in keys if key not in table]:
        raise SegopsError(f"{mask}: segments {', '.join(unknown[:5])} are not in {file.name}.")
    return Drawn(labels, np.array([table[key] for key in keys], np.int32)[indices])
