"""Reads an export of Label Studio as JSON: brushes, polygons, rectangles and ellipses.

Source: Label Studio's JSON format. Coordinates are percent of the image. A brush is a run-length
code of RGBA values (``label_studio_sdk.converter.brush``), whose alpha is the mask. Later results
lie over earlier ones. Of several annotations of a task the latest that was not cancelled counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from segops.importers.files import Photographs
from segops.importers.json_files import read_tree, require, stated_size
from segops.importers.polygons import Shape, by_pillow, draw, ellipse, points, rectangle, turned
from segops.importers.source import BACKGROUND, Drawn, Source, SourceImage, explained, noted
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.voc.layout import PHOTOGRAPH_SUFFIXES
from segops.words import counted

Tree = Mapping[str, Any]

REGIONS = {
    "brushlabels": "brush",
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
    "ellipselabels": "ellipse",
}
"""Type of a result with an area -> its kind."""
NO_REGIONS = (
    *("choices", "relation", "rating", "textarea", "taxonomy", "number", "datetime", "pairwise"),
    *("ranker",),
)
"""Types of results that have no area by their nature; others are refused."""


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
    photographs = Photographs(path, images)
    names: set[str] = set()
    found: list[SourceImage] = []
    problems: list[str] = []
    idle: list[str] = []
    several: list[str] = []
    for task in track(_tasks(file), f"reading {file}"):
        where = f"{file}: task {task.get('id')}"
        with noted(problems, where):
            annotations = _annotations(task, where)
            if not annotations:
                idle.append(where)
                continue
            if len(annotations) > 1:
                several.append(where)
            regions = _regions(annotations[-1], where)
            names |= {label for one in regions for label in _labels(one, where)}
            photograph = _photograph(task, where, file.parent, photographs)
            found.append(
                SourceImage(
                    image_id=photograph.stem,
                    photograph=photograph,
                    origin=(file,),
                    draw=partial(_draw, where, regions),
                    size=_size(regions, where),
                )
            )
    labels = (BACKGROUND, *sorted(names - {BACKGROUND}))
    notes = [*photographs.unnamed(image.photograph for image in found)]
    if idle:
        notes.append(
            f"{counted(len(idle), 'task')} without annotation left out, such as {idle[0]}."
        )
    if several:
        notes.append(
            f"{counted(len(several), 'task')} with several annotations, such as {several[0]}: "
            "that of the ground truth is taken, else the latest."
        )
    return Source(tuple(found), labels, tuple(problems), tuple(notes))


def _tasks(file: Path) -> list[dict[str, Any]]:
    tree = read_tree(file)
    if (
        not isinstance(tree, list)
        or not all(isinstance(task, dict) for task in tree)
        or any("data" not in task or "annotations" not in task for task in tree)
    ):
        raise SegopsError(
            f"{file}: expected a list of tasks with `data` and `annotations`. Export as JSON, not "
            "as JSON-MIN or another form."
        )
    return tree


def _photograph(task: Tree, where: str, near: Path, photographs: Photographs) -> Path:
    """Return the photograph that an address in a task's data names."""
    values = require(task, "data", where, dict).values()
    places = [_place(value) for value in values if isinstance(value, str)]
    names = dict.fromkeys(
        _own_name(place, photographs)
        for place in places
        if Path(place).suffix.lower() in PHOTOGRAPH_SUFFIXES
    )
    if len(names) > 1:  # a thumbnail, say, or a text
        names = dict.fromkeys(filter(photographs.holds, names)) or names
    if len(names) != 1:
        shown = ", ".join(names) or "none"
        raise SegopsError(f"{where}: expected the address of one photograph in `data`: {shown}")
    return photographs.find(next(iter(names)), near, where)


def _own_name(place: str, photographs: Photographs) -> str:
    """Return a path without the eight digits that Label Studio writes before an uploaded file."""
    if photographs.holds(place):
        return place
    return re.sub(r"(^|/)[0-9a-f]{8}-([^/]+)$", r"\1\2", place)


def _place(address: str) -> str:
    """Return the path that an address holds; that of a text which is no address is empty."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    query = parse_qs(parts.query)
    return unquote(query["d"][0] if "d" in query else parts.path).lstrip("/")


def _annotations(task: Tree, where: str) -> list[Tree]:
    """Return the annotations of a task that count, the one to take last."""
    kept = [
        annotation
        for annotation in require(task, "annotations", where, list)
        if isinstance(annotation, dict) and not annotation.get("was_cancelled")
    ]
    # The order of the file decides between those of the same time.
    return sorted(
        kept, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at", "")))
    )


def _regions(annotation: Tree, where: str) -> list[Tree]:
    """Return the results of an annotation that have an area."""
    results = require(annotation, "result", where, list)
    kinds = {require(one, "type", where, str) for one in results}
    if others := sorted(kinds - set(REGIONS) - set(NO_REGIONS)):
        raise SegopsError(
            f"{where}: results of type {', '.join(others)}; expected {', '.join(REGIONS)}. Outline "
            "them, or delete them in Label Studio"
        )
    return [one for one in results if one["type"] in REGIONS]


def _size(regions: Sequence[Tree], where: str) -> tuple[int, int] | None:
    sizes = {stated_size(one, "original_width", "original_height", where) for one in regions}
    if len(sizes - {None}) > 1:
        raise SegopsError(f"{where}: its results state several sizes of the photograph")
    return next(iter(sizes - {None}), None)


def _labels(result: Tree, where: str) -> list[str]:
    labels = require(require(result, "value", where, dict), str(result["type"]), where, list)
    if not labels or not all(isinstance(label, str) and label for label in labels):
        raise SegopsError(f"{where}: a result whose labels are {labels}; expected texts")
    return labels


def _draw(where: str, regions: Sequence[Tree], size: tuple[int, int]) -> Drawn:
    try:
        return draw(
            (shape for one in regions for shape in _shapes(one, where, size)), size, by_pillow
        )
    except MemoryError:
        raise
    except Exception as error:
        raise SegopsError(explained(error, f"{where}, a result")) from error


def _shapes(result: Tree, where: str, size: tuple[int, int]) -> Iterator[Shape]:
    value, kind = result["value"], REGIONS[result["type"]]
    width, height = size
    for label in _labels(result, where):
        if kind == "brush":
            alpha = decode_brush(require(value, "rle", where, list), width * height)
            yield Shape(label, pixels=alpha.reshape(height, width) > 0)
            continue
        scale = np.array([width, height]) / 100
        if kind == "polygon":
            yield Shape(label, [points(require(value, "points", where, list)) * scale])
            continue
        x, y = (np.array([_number(value, key, where) for key in "xy"]) * scale).tolist()
        turn = _number(value, "rotation", where) if "rotation" in value else 0.0
        keys = ("radiusX", "radiusY") if kind == "ellipse" else ("width", "height")
        across, down = (np.array([_number(value, key, where) for key in keys]) * scale).tolist()
        if kind == "ellipse":
            yield Shape(label, [ellipse((x, y), (across, down), turn)])
        else:
            yield Shape(label, [turned(rectangle(x, y, x + across, y + down), (x, y), turn)])


def _number(value: Tree, key: str, where: str) -> float:
    return require(value, key, where, float)


def decode_brush(code: Sequence[int], pixels: int) -> NDArray[np.uint8]:
    """Decode Label Studio's run-length code of a brush.

    The code is a stream of bits: 32 for the number of values, 5 for the bits of a value less one,
    four times 4 for the bits of a run's length less one; then runs: one bit that says whether a
    single value repeats, two that choose one of the four lengths, the length less one, the values.

    Args:
        code: Bytes, each 0 to 255.
        pixels: The number of the image's pixels.

    Returns:
        uint8 array of the alpha values, one for each pixel, by rows.

    Raises:
        ValueError: It is cut off, too long, or that of another number of pixels.
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
    if total != 4 * pixels or depth != 8:
        raise ValueError(
            f"a brush of {total} values of {depth} bits; expected {4 * pixels} of 8 bits"
        )
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
