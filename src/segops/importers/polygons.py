"""Draws polygons and other shapes of annotations into labels.

Tools disagree on which pixels a polygon covers at its border. Each importer takes the rule of the
tool whose files it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from segops.importers.source import BACKGROUND, Drawn


@dataclass(frozen=True)
class Shape:
    """A region of one label.

    Attributes:
        label: The label.
        outlines: Its outer outlines, each float of shape (N, 2): x to the right and y down, in
            pixels; (0, 0) is the upper left corner of the image.
        holes: Outlines of the parts within that do not belong to it.
        pixels: Instead of outlines: bool array (H, W).
    """

    label: str
    outlines: Sequence[NDArray[np.float64]] = ()
    holes: Sequence[NDArray[np.float64]] = ()
    pixels: NDArray[np.bool_] | None = field(default=None)


Fill = Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.bool_]]
"""Given an outline, and width and height, returns the pixels within, bool (H, W)."""


def by_pillow(outline: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline as labelme does (``labelme.utils.shape_to_mask``): its border belongs to it.

    Arguments and result are those of :data:`Fill`.
    """
    canvas = Image.new("1", size)
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline.tolist()], outline=1, fill=1)
    return np.array(canvas, bool)


def by_coco(outline: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline as pycocotools does, and so CVAT's exports.

    Arguments and result are those of :data:`Fill`.
    """
    encoded = rle.frPyObjects([outline.ravel().tolist()], size[1], size[0])
    filled: NDArray[np.bool_] = rle.decode(rle.merge(encoded)).astype(bool)
    return filled


def by_opencv(outline: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline as ``cv2.fillPoly`` does with rounded corners, and so Supervisely.

    Arguments and result are those of :data:`Fill`.
    """
    canvas = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], 1)
    return canvas.astype(bool)


def draw(shapes: Sequence[Shape], size: tuple[int, int], fill: Fill) -> Drawn:
    """Draw shapes, each over those before it; pixels without a shape are background.

    Args:
        shapes: In the order of drawing.
        size: Width and height in pixels.
        fill: The rule for pixels at a border.
    """
    width, height = size
    labels = list(dict.fromkeys([BACKGROUND, *(shape.label for shape in shapes)]))
    indices = np.zeros((height, width), np.int32)
    for shape in shapes:
        inside = shape.pixels
        if inside is None:
            inside = np.zeros((height, width), bool)
            for outline in shape.outlines:
                inside |= fill(outline, size)
            for hole in shape.holes:
                inside &= ~fill(hole, size)
        indices[inside] = labels.index(shape.label)
    return Drawn(tuple(labels), indices)


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.float64]:
    """Return the outline of an ellipse as 72 points, float64 (72, 2).

    Args:
        center: x and y in pixels.
        radii: Along x and along y, before the rotation.
        angle: Rotation in degrees, clockwise as it is seen.
    """
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    points = np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], axis=1)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    outline: NDArray[np.float64] = points @ np.array([[cosine, sine], [-sine, cosine]])
    outline += np.asarray(center)
    return outline


def rectangle(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """Return the outline of a rectangle by two opposite corners, float64 (4, 2)."""
    outline: NDArray[np.float64] = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    return outline
