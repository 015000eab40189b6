"""Reads COCO's panoptic annotations: a PNG of segment ids for each image, and their categories.

Source: the format of https://cocodataset.org/#format-data. A segment's id is R + 256 G + 65536 B.
Pixels of id 0 are void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segops.importers.coco import annotation_files, read_categories, split_of
from segops.importers.files import index_photographs
from segops.importers.json_files import require
from segops.importers.source import VOID_NAME, Drawn, Source, SourceImage
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS, load_image, read_content


def read(path: Path, images: str | None = None) -> Source:
    """Read one annotation file, or all of a directory; see :func:`segops.importers.coco.read`.

    The segments of ``NAME.json`` lie in the directory ``NAME`` beside it.

    Raises:
        SegopsError: There is no such file, it cannot be read, or its directory is missing.
    """
    root = path.parent if path.is_file() else path
    found: list[SourceImage] = []
    names: dict[str, None] = {}
    problems: list[str] = []
    trees = annotation_files(path, "a panoptic file", _is_panoptic)
    masks = {file: file.with_suffix("") for file in trees}
    for file, directory in masks.items():
        if not directory.is_dir():
            raise SegopsError(
                f"{directory}: no such directory; {file.name} has its segments there."
            )
    photographs = index_photographs(Path(images) if images else root, set(masks.values()))
    for file, tree in trees.items():
        categories = read_categories(tree, file)
        names |= dict.fromkeys(categories.values())
        entries = {require(entry, "id", file): entry for entry in require(tree, "images", file)}
        for annotation in tree["annotations"]:
            entry = entries.get(require(annotation, "image_id", file))
            name = str(require(entry, "file_name", file))
            photograph = photographs.get(Path(name).name)
            mask = masks[file] / Path(str(require(annotation, "file_name", file))).name
            if photograph is None:
                problems.append(f"{file}: its image {name} is not below {images or root}")
                continue
            draw = partial(_draw, file, mask, annotation["segments_info"], categories)
            split = split_of(file)
            found.append(SourceImage(photograph.stem, photograph, (mask, file), draw, split))
    return Source(tuple(found), tuple(names), tuple(problems))


def _is_panoptic(tree: Mapping[str, Any]) -> bool:
    annotations = tree.get("annotations")
    return isinstance(annotations, list) and any("segments_info" in one for one in annotations)


def _draw(
    file: Path,
    mask: Path,
    segments: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
    size: tuple[int, int],
) -> Drawn:
    image = load_image(read_content(mask), str(mask), MASK_FORMATS)
    if image.mode not in ("RGB", "RGBA"):
        raise SegopsError(f"{mask}: mode {image.mode}; expected segment ids as RGB.")
    rgb = np.asarray(image).astype(np.int64)
    keys, inverse = np.unique(
        rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], return_inverse=True
    )
    labels = (VOID_NAME, *categories.values())
    places = {category: index for index, category in enumerate(categories, 1)}
    table = {0: 0}
    for segment in segments:
        category = require(segment, "category_id", file)
        if category not in places:
            raise SegopsError(f"{file}: category {category} is not in `categories`.")
        table[int(require(segment, "id", file))] = places[category]
    if unknown := [str(key) for key in keys.tolist() if key not in table]:
        raise SegopsError(f"{mask}: segments {', '.join(unknown[:5])} are not in {file.name}.")
    indices = np.array([table[key] for key in keys.tolist()], np.int32)[inverse]
    return Drawn(labels, indices.reshape(rgb.shape[:2]))
