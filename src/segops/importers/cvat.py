"""Reads CVAT's exports: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1".

Source: CVAT's documentation of these formats. Shapes are drawn by their `z_order`, then in the
order of the file, with pycocotools' rule, as CVAT's own export of masks draws them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from segops.importers import folder
from segops.importers.files import index_photographs
from segops.importers.labelling import read_colors
from segops.importers.polygons import Shape, by_coco, draw, ellipse, rectangle
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage
from segops.importers.splits import SPELLINGS
from segops.runtime.errors import SegopsError

REGIONS = ("polygon", "box", "ellipse", "mask")
"""Elements that have an area; `points`, `polyline`, `skeleton` and `cuboid` are not read."""
OTHERS = ("polyline", "points", "cuboid", "skeleton")
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
    photographs = index_photographs(Path(images) if images else file.parent)
    names = dict.fromkeys(
        [BACKGROUND, *(label.text or "" for label in root.iterfind("meta//labels/label/name"))]
    )
    found, problems = [], []
    for element in root.iterfind("image"):
        name = element.get("name", "")
        photograph = photographs.get(Path(name).name)
        if photograph is None:
            problems.append(f"{file}: its image {name} is not below {images or file.parent}")
            continue
        others = {child.tag for child in element} & set(OTHERS)
        if others:
            problems.append(
                f"{file}: image {name} has shapes of type {', '.join(sorted(others))}, which have "
                f"no area; expected {', '.join(REGIONS)}"
            )
            continue
        shapes = [child for child in element if child.tag in REGIONS]
        names |= dict.fromkeys(str(shape.get("label")) for shape in shapes)
        draw_it = partial(_draw, file, name, shapes)
        split = SPELLINGS.get(str(element.get("subset", "")).lower())
        found.append(SourceImage(photograph.stem, photograph, (file,), draw_it, split))
    return Source(tuple(found), tuple(names), tuple(problems))


def parsed(file: Path) -> ElementTree.Element:
    """Read an XML file that declares no entities.

    Raises:
        SegopsError: It cannot be read, or declares a document type.
    """
    try:
        content = file.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise SegopsError(f"{file}: declares a document type; annotations of CVAT have none.")
        return ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError) as error:
        raise SegopsError(f"{file}: not readable as CVAT's XML: {error}.") from None


def _read_masks(path: Path, images: str | None) -> Source:
    colors = read_colors(path / COLORS)
    source = folder.read(path, images=images, masks="SegmentationClass", colors=True)
    named = tuple(
        SourceImage(
            image.image_id,
            image.photograph,
            (*image.origin, path / COLORS),
            partial(_draw_named, image, colors),
            image.split,
        )
        for image in source.images
    )
    return Source(named, tuple(dict.fromkeys(colors.values())), source.problems)


def _draw_named(image: SourceImage, colors: dict[str, str], size: tuple[int, int]) -> Drawn:
    drawn = image.draw(size)
    return Drawn(tuple(colors.get(label, label) for label in drawn.labels), drawn.indices)


def _draw(
    file: Path, name: str, elements: list[ElementTree.Element], size: tuple[int, int]
) -> Drawn:
    ordered = sorted(elements, key=lambda element: int(element.get("z_order", "0")))
    try:
        return draw([_shape(element, size) for element in ordered], size, by_coco)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SegopsError(f"{file}: image {name}: a shape cannot be read: {error}.") from error


def _shape(element: ElementTree.Element, size: tuple[int, int]) -> Shape:
    label, values = str(element.get("label")), element.attrib
    if element.tag == "box":
        corners = (float(values[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return Shape(label, [rectangle(*corners)])
    if element.tag == "ellipse":
        cx, cy, rx, ry = (float(values[name]) for name in ("cx", "cy", "rx", "ry"))
        return Shape(label, [ellipse((cx, cy), (rx, ry), float(values.get("rotation", 0)))])
    if element.tag == "mask":
        left, top, width, height = (int(values[n]) for n in ("left", "top", "width", "height"))
        part = _run_lengths(values["rle"], width, height)
        pixels = np.zeros((size[1], size[0]), bool)
        pixels[top : top + height, left : left + width] = part
        return Shape(label, pixels=pixels)
    points = [[float(value) for value in pair.split(",")] for pair in values["points"].split(";")]
    outline = np.asarray(points, np.float64)
    if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 3:
        raise ValueError(f"points {values['points'][:40]!r}")
    return Shape(label, [outline])


def _run_lengths(text: str, width: int, height: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask, bool (H, W): runs by rows, the first of them outside."""
    runs = [int(value) for value in text.replace(" ", "").split(",")]
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"runs of {sum(runs)} pixels for {width} x {height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    pixels: NDArray[np.bool_] = flat.reshape(height, width)
    return pixels
