"""Reads CVAT's exports: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1".

Source: CVAT's documentation of these formats. Shapes are drawn by their `z_order`, then in the
order of the file, with pycocotools' rule, as CVAT's own export of masks draws them.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.importers import folder
from segops.importers.files import Photographs
from segops.importers.json_files import stated_size
from segops.importers.labelling import read_colors
from segops.importers.polygons import (
    Shape,
    by_coco,
    checked,
    draw,
    ellipse,
    points,
    rectangle,
    turned,
)
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage, noted
from segops.importers.splits import SPELLINGS, find_lists
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_content
from segops.voc.layout import LISTS

REGIONS = ("polygon", "box", "ellipse", "mask")
"""Elements that have an area; `points`, `polyline`, `skeleton` and `cuboid` are not read."""
NO_SHAPES = ("tag", "attribute")
COLORS = "labelmap.txt"
"""In an export of masks: the table of classes and colours."""


def read(path: Path, images: str | None = None) -> Source:
    """Read ``annotations.xml``, or an export of masks (a directory with ``labelmap.txt``).

    Args:
        path: The file, or the directory that holds it.
        images: Directory of the photographs; None: that of the annotations.

    Raises:
        SegopsError: There is neither, or it cannot be read.
    """
    if path.is_dir() and (path / COLORS).is_file():
        return _read_masks(path, images)
    file = path / "annotations.xml" if path.is_dir() else path
    root = parsed(file)
    if root.find("track") is not None:
        raise SegopsError(f'{file}: tracks of a video. Export the task as "CVAT for images 1.1".')
    photographs = Photographs(path, images)
    names = dict.fromkeys(
        [BACKGROUND, *(label.text or "" for label in root.iterfind("meta//labels/label/name"))]
    )
    if "" in names:
        raise SegopsError(f"{file}: a label without a name.")
    found: list[SourceImage] = []
    problems: list[str] = []
    for element in track(root.findall("image"), f"reading {file}"):
        name = element.get("name", "")
        with noted(problems, f"{file}: image {name}"):
            shapes = _shapes(element, f"{file}: image {name}")
            names |= dict.fromkeys(_label(shape) for shape in shapes)
            photograph = photographs.find(name, file.parent, file)
            size = {key: _whole(element, key) for key in ("width", "height") if element.get(key)}
            found.append(
                SourceImage(
                    image_id=photograph.stem,
                    photograph=photograph,
                    origin=(file,),
                    draw=partial(_draw, shapes),
                    split=SPELLINGS.get(element.get("subset", "").lower()),
                    size=stated_size(size, "width", "height", f"{file}: image {name}"),
                )
            )
    if not found and not problems:
        raise SegopsError(f"{file}: holds no element `image` of CVAT for images 1.1.")
    notes = photographs.unnamed(image.photograph for image in found)
    return Source(tuple(found), tuple(names), tuple(problems), notes)


class _Tree(ElementTree.TreeBuilder):
    """Builds a tree of a file that declares no document type, and so no entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("declares a document type; annotations of CVAT have none")


def parsed(file: Path) -> ElementTree.Element:
    """Read an XML file that declares no entities.

    Raises:
        SegopsError: It cannot be read, or declares a document type.
    """
    try:
        parser = ElementTree.XMLParser(target=_Tree())
        return ElementTree.fromstring(read_content(file), parser)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise SegopsError(f"{file}: not readable as CVAT's XML: {error}.") from None


def _shapes(image: ElementTree.Element, where: str) -> list[ElementTree.Element]:
    others = {child.tag for child in image} - {*REGIONS, *NO_SHAPES}
    if others:
        raise SegopsError(
            f"{where} has shapes of type {', '.join(sorted(others))}, which have no area; "
            f"expected {', '.join(REGIONS)}. Outline them, or delete them in CVAT"
        )
    shapes = [child for child in image if child.tag in REGIONS]
    return sorted(shapes, key=lambda shape: _whole(shape, "z_order", 0))


def _label(shape: ElementTree.Element) -> str:
    label = shape.get("label")
    if not label:
        raise ValueError(f"a {shape.tag} without a label")
    return label


def _number(element: ElementTree.Element, key: str, usual: float | None = None) -> float:
    text = element.get(key)
    if text is None and usual is not None:
        return float(usual)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{key}` of {element.tag} is {text}; expected a number")
    return number


def _whole(element: ElementTree.Element, key: str, usual: int | None = None) -> int:
    number = _number(element, key, usual)
    if not number.is_integer():
        raise ValueError(f"`{key}` of {element.tag} is {number}; expected a whole number")
    return int(number)


def _read_masks(path: Path, images: str | None) -> Source:
    colors = read_colors(path / COLORS)
    source = folder.read(path, images=images, masks="SegmentationClass", colors=True)
    lists = find_lists(path / LISTS)
    splits, problems = (
        ({}, [])
        if lists is None
        else lists.match({image.photograph: image.image_id for image in source.images})
    )
    named = tuple(
        replace(
            image,
            origin=(*image.origin, path / COLORS),
            draw=partial(_draw_named, image, colors),
            split=splits.get(image.photograph, image.split),
        )
        for image in source.images
    )
    labels = tuple(dict.fromkeys(colors.values()))
    return Source(named, labels, (*source.problems, *problems), source.notes)


def _draw_named(image: SourceImage, colors: dict[str, str], size: tuple[int, int]) -> Drawn:
    drawn = image.draw(size)
    return Drawn(tuple(colors.get(label, label) for label in drawn.labels), drawn.indices)


def _draw(shapes: list[ElementTree.Element], size: tuple[int, int]) -> Drawn:
    return draw((_shape(shape, size) for shape in shapes), size, by_coco)


def _shape(element: ElementTree.Element, size: tuple[int, int]) -> Shape:
    label = _label(element)
    if element.tag == "box":
        x0, y0, x1, y1 = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        center = ((x0 + x1) / 2, (y0 + y1) / 2)
        turn = _number(element, "rotation", 0)
        outline = rectangle(x0, y0, x1, y1)
        return Shape(label, [turned(outline, center, turn) if turn else outline])
    if element.tag == "ellipse":
        return Shape(label, pixels=_ellipse(element, size))
    if element.tag == "mask":
        left, top, width, height = (_whole(element, n) for n in ("left", "top", "width", "height"))
        if width > size[0] or height > size[1]:
            raise ValueError(f"a mask of {width} x {height} pixels is larger than its photograph")
        part = _run_lengths(element.get("rle", ""), width, height)
        return Shape(label, pixels=part, at=(left, top))
    text = element.get("points", "")
    try:
        pairs = [[float(value) for value in pair.split(",")] for pair in text.split(";")]
    except ValueError:
        raise ValueError(
            f"`points` of {element.tag} is {text[:60] or 'empty'}; expected pairs as in 1.5,2;3,4"
        ) from None
    return Shape(label, [points(pairs)])


def _ellipse(element: ElementTree.Element, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an ellipse as CVAT's export does: ``cv2.ellipse`` with rounded values, bool (H, W)."""
    cx, cy, rx, ry = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
    turn = _number(element, "rotation", 0)
    checked(ellipse((cx, cy), (rx, ry), turn), size)
    if min(rx, ry) < 0:
        raise ValueError(f"an ellipse of radii {rx} and {ry}")
    canvas = np.zeros((size[1], size[0]), np.uint8)
    cv2.ellipse(canvas, (round(cx), round(cy)), (round(rx), round(ry)), turn, 0, 360, 1, -1)
    return canvas.astype(bool)


def _run_lengths(text: str, width: int, height: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask, bool (H, W): runs by rows, the first of them outside."""
    spaceless = text.replace(" ", "")
    if not re.fullmatch(r"\d{1,12}(,\d{1,12})*", spaceless):
        raise ValueError(f"`rle` of mask is {text[:80] or 'empty'}; expected runs as in 3,4,1")
    runs = [int(value) for value in spaceless.split(",")]
    if min(width, height) < 1 or sum(runs) != width * height:
        raise ValueError(f"a mask whose runs are of {sum(runs)} pixels, not {width} x {height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    pixels: NDArray[np.bool_] = flat.reshape(height, width)
    return pixels
