"""Reads labelme: a JSON file beside each photograph, with polygons and other shapes.

Source: labelme's file format (``shapes`` with `label`, `points`, `shape_type`, and `mask` as a PNG
in base 64). Later shapes lie over earlier ones.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segops.importers.files import Photographs, files_below
from segops.importers.json_files import read_object, require, stated_size
from segops.importers.polygons import Shape, by_pillow, checked, draw, ellipse, points, rectangle
from segops.importers.source import (
    BACKGROUND,
    VOID_NAME,
    Drawn,
    Source,
    SourceImage,
    load_labels,
    noted,
)
from segops.importers.splits import split_of_path
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS

REGIONS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
"""Kinds of shapes that have an area; points and lines have none."""


def read(path: Path, images: str | None = None) -> Source:
    """Read all JSON files of labelme below a directory.

    Args:
        path: The directory.
        images: Directory of the photographs; None: `path`.

    Raises:
        SegopsError: There is no such file, or one cannot be read.
    """
    photographs = Photographs(path, images)
    names: set[str] = set()
    found: list[SourceImage] = []
    problems: list[str] = []
    for file in track(files_below(path, (".json",)), f"reading {path}"):
        with noted(problems, file):
            tree = read_object(file)
            if "shapes" not in tree:
                continue
            names |= _labels(tree, file)
            found.append(
                SourceImage(
                    image_id=(photograph := _photograph(file, tree, photographs)).stem,
                    photograph=photograph,
                    origin=(file,),
                    draw=partial(_draw, file),
                    split=split_of_path(file.relative_to(path)),
                    size=stated_size(tree, "imageWidth", "imageHeight", file),
                )
            )
    if not found and not problems:
        raise SegopsError(f"{path}: holds no file of labelme (JSON with `shapes`).")
    labels = (BACKGROUND, *sorted(names - {BACKGROUND}))
    notes = photographs.unnamed(image.photograph for image in found)
    return Source(tuple(found), labels, tuple(problems), notes)


def _photograph(file: Path, tree: Mapping[str, Any], photographs: Photographs) -> Path:
    name = str(tree.get("imagePath") or "")
    if name and photographs.holds(name):
        return photographs.find(name, file.parent, file)
    # The file was renamed together with its photograph.
    return photographs.of_stem(file.stem, f"{file} ({name or 'no `imagePath`'})")


def _labels(tree: Mapping[str, Any], file: Path) -> set[str]:
    shapes = require(tree, "shapes", file, list)
    kinds = {_kind(shape) for shape in shapes}
    if others := sorted(kinds - set(REGIONS)):
        raise SegopsError(
            f"{file}: shapes of type {', '.join(others)}, which have no area; expected "
            f"{', '.join(REGIONS)}. Outline them, or delete them in labelme"
        )
    return {_label(shape, file) for shape in shapes}


def _kind(shape: Any) -> str:
    return str(shape.get("shape_type") or "polygon") if isinstance(shape, Mapping) else "polygon"


def _label(shape: Any, file: Path) -> str:
    name = require(shape, "label", file, str)
    return {"_background_": BACKGROUND, "__ignore__": VOID_NAME}.get(name, name)


def _draw(file: Path, size: tuple[int, int]) -> Drawn:
    shapes = require(read_object(file), "shapes", file, list)
    return draw((_shape(shape, file, size) for shape in shapes), size, by_pillow)


def _shape(shape: Mapping[str, Any], file: Path, size: tuple[int, int]) -> Shape:
    label, kind = _label(shape, file), _kind(shape)
    outline = points(require(shape, "points", file, list))
    if kind in ("polygon", "oriented_rectangle") or (kind == "rectangle" and len(outline) == 4):
        return Shape(label, [outline])
    first = checked(outline, size, corners=1)[0]
    if kind == "mask":
        content = base64.b64decode(require(shape, "mask", file, str), validate=True)
        part = load_labels(content, f"{file}: mask", MASK_FORMATS, size, part=True)
        pixels = np.asarray(part.convert("L")) > 0
        return Shape(label, pixels=pixels, at=(int(first[0]), int(first[1])))
    if len(outline) != 2:
        raise ValueError(f"a {kind} of {len(outline)} points; expected 2")
    if kind == "rectangle":
        return Shape(label, [rectangle(*outline[0], *outline[1])])
    x, y = first.tolist()
    radius = float(np.hypot(*(outline[1] - outline[0])))
    checked(ellipse((x, y), (radius, radius)), size)
    canvas = Image.new("1", size)
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(canvas).ellipse(box, outline=1, fill=1)
    return Shape(label, pixels=np.array(canvas, bool))
