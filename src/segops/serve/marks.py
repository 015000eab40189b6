"""Marks of wrong regions: photographs with labelme files, for `segops data import labelme`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segops import files
from segops.runtime.errors import SegopsError
from segops.serve.errors import RequestError, no_class

if TYPE_CHECKING:
    from segops.serve.answer import Model

LONGEST_NOTE = 2000
MOST_CORNERS = 1_000
MOST_SHAPES = 200
"""Marks of a photograph."""
MOST_PHOTOGRAPHS = 10_000
MOST_BYTES = 10 << 30
"""Bytes of a directory of marks; a new photograph is refused beyond."""
LONGEST_CLASS = 200
NAME_LENGTH = 20
"""Hexadecimal digits of a photograph's SHA-256 that name its files."""


class Mark(BaseModel):
    """A region that a person marked.

    Attributes:
        note: What is wrong, in the person's words.
        name: The class that is right (key `class`).
        polygon: Corners [x, y] in pixels of the upright image; (0, 0) is the upper left pixel.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""
    name: Annotated[str, Field(alias="class", max_length=LONGEST_CLASS)]
    polygon: Annotated[list[tuple[float, float]], Field(min_length=3, max_length=MOST_CORNERS)]


def parsed(content: bytes, classes: Collection[str]) -> Mark:
    """Return a mark from its JSON.

    Raises:
        RequestError: It is none (400), or names a class that the model lacks (404).
    """
    try:
        mark = Mark.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the mark"
        raise RequestError(
            400,
            f"{place}: {first['msg']}; expected JSON such as "
            '{"note": "...", "class": "cat", "polygon": [[1, 1], [9, 1], [9, 9]]}.',
        ) from None
    if mark.name not in classes:
        raise no_class(f"class {mark.name}")
    return mark


def photograph(model: Model, content: bytes, name: str) -> tuple[str, bytes, tuple[int, int]]:
    """Return an image as a data set takes it; runs in a worker.

    Corners are those of the upright image, and a data set does not apply the EXIF orientation. So
    the bytes stay only where the stored pixels are upright; else they become a PNG.

    Returns:
        The file's suffix, its bytes, and its width and height.

    Raises:
        RequestError: The image cannot be decoded, or its model takes no photographs.
    """
    from PIL import Image

    from segops.runtime.bands import RGB
    from segops.runtime.images import decode_image

    image = model.decoded(content, name)
    height, width, channels = image.shape
    if channels != RGB:
        raise RequestError(501, "Marks are taken for models of RGB images alone.")
    try:
        stored = decode_image(content, name)
    except SegopsError:  # a format of consumers that data sets do not hold
        stored = image[:0]
    if stored.shape == image.shape and bool((stored == image).all()):
        suffix = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}.get(content[:2], ".tif")
        return suffix, content, (width, height)
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return ".png", buffer.getvalue(), (width, height)


def write(directory: Path, mark: Mark, suffix: str, content: bytes, size: tuple[int, int]) -> str:
    """Write a mark, beside earlier ones of the same photograph.

    Args:
        directory: Where.
        mark: The mark.
        suffix: As :func:`photograph` returns it, like `content` and `size`.
        content: The photograph.
        size: Its width and height.

    Returns:
        The name of the photograph's file.

    Raises:
        RequestError: The polygon lies outside of the image (400); there are too many marks, or
            the photograph's label file is none of labelme's (507).
        OSError: A file cannot be read or written.
    """
    width, height = size
    if not all(0 <= x <= width and 0 <= y <= height for x, y in mark.polygon):
        raise RequestError(400, f"polygon: a corner lies outside of the {width} x {height} image.")
    if math.isclose(_area(mark.polygon), 0.0, abs_tol=0.5):
        raise RequestError(400, "polygon: its area is zero; expected a region.")
    stem = files.sha256_bytes(content)[:NAME_LENGTH]
    image, label = directory / f"{stem}{suffix}", directory / f"{stem}.json"
    directory.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {
        "version": "5.5.0",  # of labelme's format
        "flags": {},
        "shapes": [],
        "imagePath": image.name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    if label.is_file():
        tree = _label_file(label)
    else:
        _require_room(directory, len(content))
    shape: dict[str, Any] = {
        "label": mark.name,
        "points": [list(corner) for corner in mark.polygon],
        "group_id": None,
        "description": mark.note,
        "shape_type": "polygon",
        "flags": {},
    }
    if shape in tree["shapes"]:
        return image.name
    if len(tree["shapes"]) >= MOST_SHAPES:
        raise RequestError(507, f"This photograph has {MOST_SHAPES} marks already.")
    tree["shapes"].append(shape)
    if not image.is_file():
        files.write_bytes(image, content)
    files.write_json(label, tree)
    return image.name


def _label_file(path: Path) -> dict[str, Any]:
    # A person may have changed it with labelme since.
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        tree = None
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise RequestError(507, f"{path.name}, of this photograph, is no label file of labelme.")
    return tree


def _require_room(directory: Path, size: int) -> None:
    labels = 0
    for path in directory.iterdir():
        labels += path.suffix == ".json"
        size += path.stat().st_size
    if labels >= MOST_PHOTOGRAPHS:
        raise RequestError(507, f"{MOST_PHOTOGRAPHS:,} photographs are marked already.")
    if size > MOST_BYTES:
        raise RequestError(507, f"The marks take {MOST_BYTES >> 30} GiB already.")


def _area(polygon: list[tuple[float, float]]) -> float:
    turned = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in turned)) / 2
