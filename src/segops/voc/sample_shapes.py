"""Polygons that the objects of the generated sample are made of.

Coordinates run from about -1 to 1, x to the right and y down. No array goes through a
transcendental function, whose last bit differs from processor to processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
Paint = Literal["body", "second", "glass", "dark", "light"]


@dataclass(frozen=True)
class Part:
    """One polygon of an object.

    Attributes:
        outline: float64 array of shape (N, 2), corners as (x, y) in object coordinates.
        paint: Which of the object's paints covers it.
        shade: Factor of the paint's brightness.
        inside: Whether it shows only on the part before it that is not itself `inside`.
    """

    outline: Outline
    paint: Paint
    shade: float = 1.0
    inside: bool = False


def direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, cut to six digits so that every machine agrees on them."""
    radians = math.radians(degrees)
    return round(math.cos(radians), 6), round(math.sin(radians), 6)


def polygon(*corners: tuple[float, float]) -> Outline:
    """A polygon from its corners."""
    return np.array(corners, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    """A rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def smooth(outline: Outline, times: int = 3) -> Outline:
    """Round the corners off by cutting them `times` times (Chaikin, 1974)."""
    for _ in range(times):
        following = np.roll(outline, -1, axis=0)
        cut = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], 1)
        outline = cut.reshape(-1, 2)
    return outline


def ellipse(x: float, y: float, across: float, down: float, tilt: float = 0.0) -> Outline:
    """An ellipse around (x, y) with half axes `across` and `down`, turned by `tilt` degrees."""
    cosine, sine = direction(tilt)
    corners = []
    for step in range(24):
        u, v = direction(15.0 * step)
        u, v = u * across, v * down
        corners.append((x + u * cosine - v * sine, y + u * sine + v * cosine))
    return polygon(*corners)


def stripes(
    paint: Paint,
    shade: float,
    *,
    across: tuple[float, float],
    along: tuple[float, float],
    pitch: float,
    share: float = 0.4,
    lean: float = 0.0,
    upright: bool = False,
) -> list[Part]:
    """Parallel stripes on the part before.

    Args:
        paint: Which paint.
        shade: Factor of its brightness.
        across: Where the first stripe begins and where the last one ends.
        along: Where each stripe begins and ends.
        pitch: From one stripe to the next.
        share: Width of a stripe as a share of the pitch.
        lean: How far the far end of a stripe is moved across.
        upright: Stripes run down instead of to the right.
    """
    parts = []
    for index in range(int((across[1] - across[0]) / pitch) + 1):
        near = across[0] + index * pitch
        far = near + share * pitch
        stripe = polygon(
            (along[0], near), (along[1], near + lean), (along[1], far + lean), (along[0], far)
        )
        parts.append(Part(stripe[:, ::-1] if upright else stripe, paint, shade, inside=True))
    return parts


def dots(
    paint: Paint, shade: float, bounds: tuple[float, float, float, float], pitch: float, size: float
) -> list[Part]:
    """Dots in offset rows on the part before.

    Args:
        paint: Which paint.
        shade: Factor of its brightness.
        bounds: Left, top, right and bottom of what they cover.
        pitch: From one dot to the next.
        size: Radius of a dot.
    """
    left, top, right, bottom = bounds
    parts = []
    for row in range(int((bottom - top) / (0.8 * pitch)) + 1):
        y = top + 0.8 * pitch * row
        for column in range(int((right - left) / pitch) + 1):
            x = left + pitch * (column + 0.5 * (row % 2))
            parts.append(Part(ellipse(x, y, size, size), paint, shade, inside=True))
    return parts


def wheel(x: float, y: float, radius: float) -> list[Part]:
    """A wheel around (x, y) with a hub."""
    return [
        Part(ellipse(x, y, radius, radius), "dark"),
        Part(ellipse(x, y, 0.5 * radius, 0.5 * radius), "light"),
    ]
