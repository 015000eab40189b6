"""Reads a project of Supervisely: ``meta.json``, ``DATASET/img`` and ``DATASET/ann``.

Source: Supervisely's annotation format. A polygon has an outline and holes; a bitmap is a PNG,
compressed with zlib, in base 64. Later objects lie over earlier ones.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.importers.json_files import read_object, require
from segops.importers.polygons import Shape, by_opencv, draw, rectangle
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage
from segops.importers.splits import SPELLINGS
from segops.runtime.errors import SegopsError
from segops.runtime.images import MASK_FORMATS, load_image

REGIONS = ("polygon", "rectangle", "bitmap")
MOST_BYTES = 1 << 28
"""Most bytes of a bitmap after zlib."""


def read(path: Path, images: str | None = None) -> Source:
    """Read all data sets of a project.

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
        str(require(one, "title", meta)) for one in require(read_object(meta), "classes", meta)
    ]
    found, problems = [], []
    for file in sorted(path.glob("*/ann/*.json")):
        photograph = file.parent.parent / "img" / file.stem
        tree = read_object(file)
        objects = require(tree, "objects", file)
        kinds = {str(require(one, "geometryType", file)) for one in objects}
        if not photograph.is_file():
            problems.append(f"{file}: its photograph {photograph} is missing")
            continue
        if others := sorted(kinds - set(REGIONS)):
            problems.append(
                f"{file}: objects of type {', '.join(others)}; expected {', '.join(REGIONS)}"
            )
            continue
        folder = file.parent.parent.name
        tags = [str(tag.get("name", "")).lower() for tag in tree.get("tags", [])]
        splits = [SPELLINGS[name] for name in (folder.lower(), *tags) if name in SPELLINGS]
        prefix = "" if folder.lower() in SPELLINGS else f"{folder}_"
        found.append(
            SourceImage(
                image_id=f"{prefix}{photograph.stem}",
                photograph=photograph,
                origin=(file,),
                draw=partial(_draw, file, objects),
                split=splits[0] if splits else None,
            )
        )
    if not found and not problems:
        raise SegopsError(f"{path}: holds no DATASET/ann/*.json.")
    labels = dict.fromkeys([BACKGROUND, *classes])
    return Source(tuple(found), tuple(labels), tuple(problems))


def _draw(file: Path, objects: list[Mapping[str, Any]], size: tuple[int, int]) -> Drawn:
    try:
        return draw([_shape(one, size) for one in objects], size, by_opencv)
    except SegopsError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, binascii.Error, zlib.error) as error:
        raise SegopsError(f"{file}: an object cannot be read: {error}.") from error


def _shape(item: Mapping[str, Any], size: tuple[int, int]) -> Shape:
    label = str(item["classTitle"])
    if item["geometryType"] == "bitmap":
        x, y = (int(value) for value in item["bitmap"]["origin"])
        part = _bitmap(str(item["bitmap"]["data"]))
        pixels = np.zeros((size[1], size[0]), bool)
        pixels[y : y + part.shape[0], x : x + part.shape[1]] = part
        return Shape(label, pixels=pixels)
    outer = np.asarray(item["points"]["exterior"], np.float64).reshape(-1, 2)
    if item["geometryType"] == "rectangle":
        return Shape(label, [rectangle(*outer[0], *outer[1])])
    holes = [np.asarray(hole, np.float64).reshape(-1, 2) for hole in item["points"]["interior"]]
    return Shape(label, [outer], holes)


def _bitmap(text: str) -> NDArray[np.bool_]:
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    if not inflater.eof:
        raise ValueError("a bitmap that is cut off or too large")
    image = load_image(content, "bitmap", MASK_FORMATS)
    # The alpha channel is the mask; older files have one channel.
    channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
    return np.asarray(channel) > 0
