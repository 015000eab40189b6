"""Reads an export of Label Studio as JSON: brushes, polygons, rectangles and ellipses.

Source: Label Studio's JSON format. Coordinates are percent of the image. A brush is a run-length
code of RGBA values (``label_studio_sdk.converter.brush``), whose alpha is the mask. Later results
lie over earlier ones. Of several annotations of a task the latest that was not cancelled counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from segops.importers.files import index_photographs
from segops.importers.polygons import Shape, by_pillow, draw, ellipse, rectangle
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage
from segops.runtime.errors import SegopsError

REGIONS = {
    "brushlabels": "brush",
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
    "ellipselabels": "ellipse",
}
"""Type of a result -> its kind; results of other types are not read."""
MOST_PIXELS = 1 << 28


def read(path: Path, images: str | None = None) -> Source:
    """Read an export.

    Args:
        path: The JSON file, or a directory that holds exactly one.
        images: Directory of the photographs; None: that of the file.

    Raises:
        SegopsError: There is no such file, or it cannot be read.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if len(files) != 1:
        raise SegopsError(f"{path}: expected one JSON export, there are {len(files)}.")
    file = files[0]
    photographs = index_photographs(Path(images) if images else file.parent)
    names: set[str] = set()
    found, problems = [], []
    for task in _tasks(file):
        where = f"{file}: task {task.get('id')}"
        name = _file_name(task)
        photograph = photographs.get(name) or photographs.get(name.partition("-")[2])
        results = _results(task)
        if photograph is None:
            problems.append(
                f"{where}: its image {name or '(none)'} is not below {images or file.parent}"
            )
            continue
        if results is None:
            problems.append(f"{where}: {name} has no annotation")
            continue
        others = sorted({str(one.get("type")) for one in results} - set(REGIONS) - {"choices"})
        if others:
            problems.append(
                f"{where}: results of type {', '.join(others)}; expected {', '.join(REGIONS)}"
            )
            continue
        regions = [one for one in results if one.get("type") in REGIONS]
        names |= {label for one in regions for label in _labels(one)}
        found.append(
            SourceImage(photograph.stem, photograph, (file,), partial(_draw, where, regions))
        )
    labels = (BACKGROUND, *sorted(names - {BACKGROUND}))
    return Source(tuple(found), labels, tuple(problems))


def _tasks(file: Path) -> list[Mapping[str, Any]]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SegopsError(f"{file}: not readable as JSON: {error}.") from None
    if not isinstance(tree, list) or not all(isinstance(task, dict) for task in tree):
        raise SegopsError(f"{file}: expected a list of tasks, as the export JSON gives it.")
    return tree


def _file_name(task: Mapping[str, Any]) -> str:
    """Return the name of a task's image: the last part of its address."""
    data = task.get("data")
    values = [str(value) for value in data.values()] if isinstance(data, dict) else []
    for value in values:
        query = parse_qs(urlsplit(value).query)
        place = query["d"][0] if "d" in query else urlsplit(value).path
        name = Path(unquote(place)).name
        if Path(name).suffix:
            return name
    return ""


def _results(task: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    kept = [
        annotation
        for annotation in task.get("annotations", ())
        if isinstance(annotation, dict) and not annotation.get("was_cancelled")
    ]
    if not kept:
        return None
    last = max(kept, key=lambda annotation: str(annotation.get("updated_at", "")))
    results = last.get("result", [])
    return [result for result in results if isinstance(result, dict)]


def _labels(result: Mapping[str, Any]) -> list[str]:
    value = result.get("value")
    labels = value.get(str(result["type"]), []) if isinstance(value, dict) else []
    return [str(label) for label in labels]


def _draw(where: str, regions: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Drawn:
    try:
        return draw([shape for one in regions for shape in _shapes(one, size)], size, by_pillow)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SegopsError(f"{where}: a result cannot be read: {error}.") from error


def _shapes(result: Mapping[str, Any], size: tuple[int, int]) -> Iterator[Shape]:
    value, kind = result["value"], REGIONS[result["type"]]
    width, height = size
    for label in _labels(result):
        if kind == "brush":
            if (result["original_width"], result["original_height"]) != size:
                raise ValueError("a brush of another size than its photograph")
            alpha = decode_brush(value["rle"])
            if alpha.size != width * height:
                raise ValueError(f"a brush of {alpha.size} pixels, not {width} x {height}")
            yield Shape(label, pixels=alpha.reshape(height, width) > 0)
            continue
        scale = np.array([width, height]) / 100
        if kind == "polygon":
            yield Shape(label, [np.asarray(value["points"], np.float64).reshape(-1, 2) * scale])
            continue
        x, y = value["x"] * scale[0], value["y"] * scale[1]
        if kind == "ellipse":
            radii = (value["radiusX"] * scale[0], value["radiusY"] * scale[1])
            yield Shape(label, [ellipse((x, y), radii, value.get("rotation", 0))])
            continue
        corners = rectangle(0, 0, value["width"] * scale[0], value["height"] * scale[1])
        angle = np.radians(value.get("rotation", 0))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        yield Shape(label, [corners @ turn + (x, y)])


def decode_brush(code: Sequence[int]) -> NDArray[np.uint8]:
    """Decode Label Studio's run-length code of a brush.

    The code is a stream of bits: 32 for the number of values, 5 for the bits of a value less one,
    four times 4 for the bits of a run's length less one; then runs: one bit that says whether a
    single value repeats, two that choose one of the four lengths, the length less one, the values.

    Args:
        code: Bytes, each 0 to 255.

    Returns:
        uint8 array of the alpha values, one for each pixel, by rows.

    Raises:
        ValueError: It is cut off, or too long.
    """
    bits = np.unpackbits(np.asarray(code, np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("a brush whose code is cut off")
        number = 0
        for bit in bits[place : place + count].tolist():
            number = number * 2 + bit
        place += count
        return number

    total, depth = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total > 4 * MOST_PIXELS or depth != 8:
        raise ValueError(f"a brush of {total} values of {depth} bits")
    values = np.empty(total, np.uint8)
    done = 0
    while done < total:
        repeats, length = take(1), take(lengths[take(2)]) + 1
        if done + length > total:
            raise ValueError("a brush whose code is too long")
        if repeats:
            values[done : done + length] = take(8)
        else:
            end = place + 8 * length
            if end > len(bits):
                raise ValueError("a brush whose code is cut off")
            values[done : done + length] = np.packbits(bits[place:end])
            place = end
        done += length
    return values[3::4]
