"""Reads COCO's object annotations: polygons and run-length encodings.

Source: the format of https://cocodataset.org/#format-data. Where objects overlap the smaller lies
over the larger, as annotators draw it. Regions of `iscrowd` have their class. Pixels without an
object are background.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from segops.importers.files import index_photographs
from segops.importers.json_files import read_object, require
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage
from segops.importers.splits import SPELLINGS
from segops.runtime.errors import SegopsError


def read(path: Path, images: str | None = None) -> Source:
    """Read one annotation file, or all of a directory.

    Args:
        path: A JSON file, or a directory with such files (also in ``annotations/``).
        images: Directory of the photographs; None: they are searched beside the annotations.

    Raises:
        SegopsError: There is no annotation file, or it cannot be read.
    """
    root = path.parent if path.is_file() else path
    trees = annotation_files(path, "a COCO file", lambda tree: isinstance(tree.get("images"), list))
    photographs = index_photographs(Path(images) if images else root)
    names: dict[str, None] = {BACKGROUND: None}
    found, problems = [], []
    for file, tree in trees.items():
        categories = read_categories(tree, file)
        names |= dict.fromkeys(categories.values())
        by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in tree["annotations"]:
            by_image[require(annotation, "image_id", file)].append(annotation)
        for entry in tree["images"]:
            name = str(require(entry, "file_name", file))
            photograph = photographs.get(Path(name).name)
            if photograph is None:
                problems.append(f"{file}: its image {name} is not below {images or root}")
                continue
            found.append(
                SourceImage(
                    image_id=photograph.stem,
                    photograph=photograph,
                    origin=(file,),
                    draw=partial(_draw, file, by_image.pop(entry.get("id"), []), categories),
                    split=split_of(file),
                )
            )
    return Source(tuple(found), tuple(names), tuple(problems))


def annotation_files(
    path: Path, what: str, fits: Callable[[Mapping[str, Any]], bool]
) -> dict[Path, dict[str, Any]]:
    """Return file -> content of the annotation files at a path, `what` in messages.

    Raises:
        SegopsError: There is none, or a file is no JSON.
    """
    files = [path] if path.is_file() else sorted(path.glob("**/*.json"))
    trees = {file: read_object(file) for file in files}
    trees = {
        file: tree
        for file, tree in trees.items()
        if isinstance(tree.get("annotations"), list) and fits(tree)
    }
    if not trees:
        raise SegopsError(f"{path}: holds no {what.partition(' ')[2]} (JSON with `annotations`).")
    return trees


def read_categories(tree: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Return category id -> name, in the order of the ids."""
    pairs = (
        (int(require(category, "id", file)), str(require(category, "name", file)))
        for category in require(tree, "categories", file)
    )
    return dict(sorted(pairs))


def split_of(file: Path) -> str | None:
    """Return the split in a file's name, as in ``instances_val2017.json``; None without one."""
    words = file.stem.lower().replace("-", "_").split("_")
    splits = [split for word in words for name, split in SPELLINGS.items() if word.startswith(name)]
    return splits[0] if splits else None


def _draw(
    file: Path,
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
    size: tuple[int, int],
) -> Drawn:
    width, height = size
    indices = np.zeros((height, width), np.int32)
    labels = (BACKGROUND, *categories.values())
    places = {number: index for index, number in enumerate(categories, 1)}
    regions = []
    for annotation in annotations:
        where = f"{file}: annotation {annotation.get('id')}"
        category = annotation.get("category_id")
        if category not in places:
            raise SegopsError(f"{where}: category {category} is not in `categories`.")
        region = _region(annotation.get("segmentation"), width, height, where)
        regions.append((int(region.sum()), places[category], region))
    for _, place, region in sorted(regions, key=lambda item: -item[0]):
        indices[region] = place
    return Drawn(labels, indices)


def _region(segmentation: Any, width: int, height: int, where: str) -> NDArray[np.bool_]:
    """Return the pixels of an object, bool (H, W)."""
    try:
        if isinstance(segmentation, list):
            parts = rle.frPyObjects(segmentation, height, width)
            encoded = rle.merge(parts)
        elif isinstance(segmentation["counts"], list):
            encoded = rle.frPyObjects(segmentation, height, width)
        else:
            encoded = segmentation
        if list(encoded["size"]) != [height, width]:
            raise SegopsError(
                f"{where}: its size is {encoded['size']} (height, width), its photograph "
                f"{height} x {width}."
            )
        pixels: NDArray[np.bool_] = rle.decode(encoded).astype(bool)
    except SegopsError:
        raise
    except Exception as error:  # pycocotools raises whatever its parts raise on broken values
        raise SegopsError(f"{where}: `segmentation` cannot be read: {error}.") from error
    return pixels
