"""Reads labelme: a JSON file beside each photograph, with polygons and other shapes.

Source: labelme's file format (``shapes`` with `label`, `points`, `shape_type`, and `mask` as a PNG
in base 64). Later shapes lie over earlier ones.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segops.importers.files import index_photographs
from segops.importers.json_files import read_object, require
from segops.importers.polygons import Shape, by_pillow, draw, ellipse, rectangle
from segops.importers.source import BACKGROUND, VOID_NAME, Drawn, Source, SourceImage
from segops.importers.splits import split_of_path
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS, load_image

REGIONS = ("polygon", "rectangle", "circle", "mask")
"""Kinds of shapes that have an area; points and lines have none."""


def read(path: Path, images: str | None = None) -> Source:
    """Read all JSON files of labelme below a directory.

    Args:
        path: The directory.
        images: Directory of the photographs; None: `path`.

    Raises:
        SegopsError: There is no such file, or one cannot be read.
    """
    photographs = index_photographs(Path(images) if images else path)
    names: set[str] = set()
    found, problems = [], []
    for file in sorted(path.rglob("*.json")):
        tree = read_object(file)
        if "shapes" not in tree:
            continue
        photograph = _photograph(file, tree, photographs)
        if photograph is None:
            problems.append(f"{file}: its photograph {tree.get('imagePath')} is not there")
            continue
        shapes = require(tree, "shapes", file)
        kinds = {str(shape.get("shape_type", "polygon")) for shape in shapes}
        if others := sorted(kinds - set(REGIONS)):
            problems.append(
                f"{file}: shapes of type {', '.join(others)}, which have no area; expected "
                f"{', '.join(REGIONS)}"
            )
            continue
        names |= {_label(require(shape, "label", file)) for shape in shapes}
        draw_it = partial(_draw, file, shapes)
        split = split_of_path(file.relative_to(path))
        found.append(SourceImage(photograph.stem, photograph, (file,), draw_it, split))
    if not found and not problems:
        raise SegopsError(f"{path}: holds no file of labelme (JSON with `shapes`).")
    labels = (BACKGROUND, *sorted(names - {BACKGROUND}))
    return Source(tuple(found), labels, tuple(problems))


def _photograph(
    file: Path, tree: Mapping[str, Any], photographs: Mapping[str, Path]
) -> Path | None:
    name = Path(str(tree.get("imagePath", "")).replace("\\", "/")).name
    beside = file.parent / name
    if name and beside.is_file():
        return beside
    same = [p for p in photographs.values() if p.stem == file.stem]
    return photographs.get(name) or (same[0] if len(same) == 1 else None)


def _draw(file: Path, shapes: list[Mapping[str, Any]], size: tuple[int, int]) -> Drawn:
    try:
        return draw([_shape(shape, size) for shape in shapes], size, by_pillow)
    except SegopsError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, binascii.Error) as error:
        raise SegopsError(f"{file}: a shape cannot be read: {error}.") from error


def _label(name: Any) -> str:
    return {"_background_": BACKGROUND, "__ignore__": VOID_NAME}.get(str(name), str(name))


def _shape(shape: Mapping[str, Any], size: tuple[int, int]) -> Shape:
    label, kind = _label(shape["label"]), shape.get("shape_type", "polygon")
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if kind == "rectangle":
        return Shape(label, [rectangle(*points[0], *points[1])])
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return Shape(label, [ellipse((points[0, 0], points[0, 1]), (radius, radius))])
    if kind == "mask":
        content = base64.b64decode(shape["mask"], validate=True)
        part = np.asarray(load_image(content, "mask", MASK_FORMATS).convert("L")) > 0
        pixels = np.zeros((size[1], size[0]), bool)
        x, y = (int(value) for value in points[0])
        pixels[y : y + part.shape[0], x : x + part.shape[1]] = part
        return Shape(label, pixels=pixels)
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points")
    return Shape(label, [points])
