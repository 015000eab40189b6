"""Draws polygons and other shapes of annotations into labels.

Tools disagree on which pixels a polygon covers at its border. Each importer takes the rule of the
tool whose files it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from segops.importers.source import BACKGROUND, Drawn

FARTHEST = 10
"""Outlines lie within so many widths and heights of the image; libraries crash on far ones."""
Outline = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom lie outside."""


@dataclass(frozen=True)
class Shape:
    """A region of one label.

    Attributes:
        label: The label.
        outlines: Its outer outlines, each float of shape (N, 2): x to the right and y down, in
            pixels; (0, 0) is the upper left corner of the image.
        holes: Outlines of the parts within that do not belong to it.
        pixels: Instead of outlines: bool array (H, W), the image or a part of it.
        at: x and y of the upper left pixel of `pixels`.
    """

    label: str
    outlines: Sequence[Outline] = ()
    holes: Sequence[Outline] = ()
    pixels: NDArray[np.bool_] | None = None
    at: tuple[int, int] = (0, 0)


Fill = Callable[[Outline, tuple[int, int], Box], NDArray[np.bool_]]
"""Given an outline, width and height of the image, and a box in it, returns the box's pixels that
lie within, bool."""


def by_pillow(outline: Outline, size: tuple[int, int], box: Box) -> NDArray[np.bool_]:
    """Fill an outline as labelme does (``labelme.utils.shape_to_mask``): its border belongs to it.

    Arguments and result are those of :data:`Fill`.
    """
    left, top, right, bottom = box
    # Of full width: Pillow rounds x as a 32-bit float. It drops the fractions of corners itself.
    canvas = Image.new("1", (size[0], bottom - top))
    corners = (np.trunc(outline) - (0, top)).tolist()
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners], outline=1, fill=1)
    return np.array(canvas, bool)[:, left:right]


def by_coco(outline: Outline, size: tuple[int, int], box: Box) -> NDArray[np.bool_]:
    """Fill an outline as pycocotools does, and so CVAT's exports.

    Arguments and result are those of :data:`Fill`.
    """
    # Not drawn in the box alone: pycocotools rounds fifths of pixels, which a shift would change.
    encoded = rle.frPyObjects([outline.ravel().tolist()], size[1], size[0])
    left, top, right, bottom = box
    filled: NDArray[np.bool_] = rle.decode(rle.merge(encoded))[top:bottom, left:right].astype(bool)
    return filled


def by_opencv(outline: Outline, size: tuple[int, int], box: Box) -> NDArray[np.bool_]:
    """Fill an outline as ``cv2.fillPoly`` does with rounded corners, and so Supervisely.

    Arguments and result are those of :data:`Fill`.
    """
    left, top, right, bottom = box
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(canvas, [(np.rint(outline) - (left, top)).astype(np.int32)], 1)
    return canvas.astype(bool)


def draw(shapes: Iterable[Shape], size: tuple[int, int], fill: Fill) -> Drawn:
    """Draw shapes, each over those before it; pixels without a shape are background.

    Args:
        shapes: In the order of drawing.
        size: Width and height in pixels.
        fill: The rule for pixels at a border.

    Raises:
        ValueError: An outline is none (see :func:`checked`), or pixels lie outside the image.
    """
    width, height = size
    places = {BACKGROUND: 0}
    indices = np.zeros((height, width), np.int32)
    for shape in shapes:
        place = places.setdefault(shape.label, len(places))
        if shape.pixels is not None:
            (left, top), (rows, columns) = shape.at, shape.pixels.shape
            if min(left, top) < 0 or left + columns > width or top + rows > height:
                raise ValueError(
                    f"a mask of {columns} x {rows} pixels at {left}, {top} of label {shape.label} "
                    f"is not within the image of {width} x {height}"
                )
            indices[top : top + rows, left : left + columns][shape.pixels] = place
            continue
        for outline in (*shape.outlines, *shape.holes):
            checked(outline, size)
        box = _box(np.concatenate(shape.outlines), size)
        inside = np.zeros((box[3] - box[1], box[2] - box[0]), bool)
        if not inside.size:
            continue
        for outline in shape.outlines:
            inside |= fill(outline, size, box)
        for hole in shape.holes:
            inside &= ~fill(hole, size, box)
        indices[box[1] : box[3], box[0] : box[2]][inside] = place
    return Drawn(tuple(places), indices)


def checked(outline: Outline, size: tuple[int, int], corners: int = 3) -> Outline:
    """Return an outline that can be filled.

    Args:
        outline: float (N, 2).
        size: Width and height of the image in pixels.
        corners: The fewest corners.

    Raises:
        ValueError: It has too few corners, or one that is no number or far outside the image.
    """
    if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < corners:
        raise ValueError(f"an outline of {len(outline)} points; expected {corners} or more")
    if not (np.abs(outline) <= np.multiply(FARTHEST, size)).all():  # so that NaN fails
        raise ValueError(
            f"an outline has a corner that is no number or over {FARTHEST} times the image's size "
            f"of {size[0]} x {size[1]} away"
        )
    return outline


def _box(outline: Outline, size: tuple[int, int]) -> Box:
    """Return what an outline may cover of the image."""
    low = np.maximum(np.floor(outline.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(0)) + 2, size).astype(int)
    return int(low[0]), int(low[1]), max(int(high[0]), int(low[0])), max(int(high[1]), int(low[1]))


def points(flat: object) -> Outline:
    """Return an outline of pairs of numbers, float64 (N, 2).

    Raises:
        ValueError: These are no pairs.
    """
    if not isinstance(flat, list) or not flat or not all(map(_is_pair, flat)):
        raise ValueError(f"points {str(flat)[:60]}; expected pairs of x and y")
    return np.asarray(flat, np.float64)


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) for x in value)
    )


def turned(outline: Outline, center: tuple[float, float], angle: float) -> Outline:
    """Return an outline turned about a point by degrees, clockwise as it is seen."""
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    # Rounded: a corner at 4.9999999999 is one at 5, and some rules cut fractions off.
    result: Outline = np.round((outline - center) @ turn + center, 9)
    return result


def ellipse(center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Outline:
    """Return the outline of an ellipse as 72 points, float64 (72, 2).

    Args:
        center: x and y in pixels.
        radii: Along x and along y, before the rotation.
        angle: Rotation in degrees, clockwise as it is seen.
    """
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    outline = np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], axis=1)
    return turned(outline + center, center, angle)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Outline:
    """Return the outline of a rectangle by two opposite corners, float64 (4, 2)."""
    outline: Outline = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    return outline
