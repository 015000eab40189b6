"""Reads a project of Supervisely: ``meta.json``, ``DATASET/img`` and ``DATASET/ann``.

Source: Supervisely's annotation format. A polygon has an outline and holes; a bitmap is a PNG,
compressed with zlib, in base 64. Later objects lie over earlier ones.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.importers.files import files_below, unnamed
from segops.importers.json_files import read_object, require, stated_size
from segops.importers.polygons import Shape, by_opencv, draw, points, rectangle
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage, load_labels, noted
from segops.importers.splits import SPELLINGS, id_below
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS
from segops.voc.layout import PHOTOGRAPH_SUFFIXES

REGIONS = ("polygon", "rectangle", "bitmap")
MOST_BYTES = 1 << 28
"""Most bytes of a bitmap after zlib."""


def read(path: Path, images: str | None = None) -> Source:
    """Read all data sets of a project, nested ones (``DATASET/datasets/NAME``) included.

    Args:
        path: The directory that holds ``meta.json``.
        images: Not used: photographs lie in ``DATASET/img``.

    Raises:
        SegopsError: It holds no project, `images` is given, or a file cannot be read.
    """
    if images is not None:
        raise SegopsError("--images: photographs of supervisely lie in DATASET/img.")
    meta = path / "meta.json"
    classes = [
        require(one, "title", meta, str)
        for one in require(read_object(meta), "classes", meta, list)
    ]
    labels = dict.fromkeys([BACKGROUND, *classes])
    found: list[SourceImage] = []
    problems: list[str] = []
    for file in track(files_below(path, (".json",)), f"reading {path}"):
        if file.parent.name == "ann":
            with noted(problems, file):
                found.append(_image(file, path, labels))
    if not found and not problems:
        raise SegopsError(f"{path}: holds no DATASET/ann/*.json.")
    photographs = {f for f in files_below(path, PHOTOGRAPH_SUFFIXES) if f.parent.name == "img"}
    notes = unnamed(photographs - {image.photograph for image in found})
    return Source(tuple(found), tuple(labels), tuple(problems), notes)


def _image(file: Path, root: Path, labels: dict[str, None]) -> SourceImage:
    """Return an image, and add the labels of its objects."""
    photograph = file.parent.parent / "img" / file.stem
    tree = read_object(file)
    objects = require(tree, "objects", file, list)
    kinds = {require(one, "geometryType", file, str) for one in objects}
    labels |= dict.fromkeys(require(one, "classTitle", file, str) for one in objects)
    if not photograph.is_file():
        raise SegopsError(f"{file}: its photograph {photograph} is missing")
    if others := sorted(kinds - set(REGIONS)):
        raise SegopsError(
            f"{file}: objects of type {', '.join(others)}; expected {', '.join(REGIONS)}"
        )
    folders = [part for part in file.parent.parent.relative_to(root).parts if part != "datasets"]
    tags = [require(tag, "name", file, str) for tag in tree.get("tags") or ()]
    splits = [SPELLINGS[name.lower()] for name in (*folders, *tags) if name.lower() in SPELLINGS]
    return SourceImage(
        image_id=id_below(folders, photograph.stem),
        photograph=photograph,
        origin=(file,),
        draw=partial(_draw, file),
        split=splits[0] if splits else None,
        size=stated_size(tree.get("size"), "width", "height", file),
    )


def _draw(file: Path, size: tuple[int, int]) -> Drawn:
    objects = require(read_object(file), "objects", file, list)
    return draw((_shape(one, file, size) for one in objects), size, by_opencv)


def _shape(item: Mapping[str, Any], file: Path, size: tuple[int, int]) -> Shape:
    label = require(item, "classTitle", file, str)
    if item["geometryType"] == "bitmap":
        bitmap = require(item, "bitmap", file, dict)
        x, y = (int(value) for value in require(bitmap, "origin", file, list))
        part = _bitmap(require(bitmap, "data", file, str), file, size)
        return Shape(label, pixels=part, at=(x, y))
    given = require(item, "points", file, dict)
    outer = points(require(given, "exterior", file, list))
    if item["geometryType"] == "rectangle":
        if len(outer) != 2:
            raise ValueError(f"a rectangle of {len(outer)} points; expected 2")
        return Shape(label, [rectangle(*outer[0], *outer[1])])
    holes = [points(hole) for hole in require(given, "interior", file, list)]
    return Shape(label, [outer], holes)


def _bitmap(text: str, file: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    if not inflater.eof:
        raise ValueError("a bitmap that is cut off or too large")
    image = load_labels(content, f"{file}: bitmap", MASK_FORMATS, size, part=True)
    # The alpha channel is the mask; older files have one channel.
    channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
    return np.asarray(channel) > 0
