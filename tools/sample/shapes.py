"""The polygons that make up an object of the sample, in coordinates from about -1 to 1, y down.

No array goes through a transcendental function, whose last bit differs between processors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
Numbers = Sequence[float] | NDArray[np.float64]
Paint = Literal["body", "second", "glass", "dark", "light"]


@dataclass(frozen=True)
class Part:
    """One polygon of an object: corners (x, y), float64 (N, 2), and the paint that covers it.

    Attributes:
        shade: Factor of the paint's brightness.
        inside: Whether it shows only on the last part before it that is not itself `inside`.
    """

    outline: Outline
    paint: Paint
    shade: float = 1.0
    inside: bool = False


def on(outline: Outline, paint: Paint, shade: float = 1.0) -> Part:
    """A part that shows only on the part before it."""
    return Part(outline, paint, shade, inside=True)


def direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded to six digits so that every machine computes the same ones."""
    radians = math.radians(degrees)
    return round(math.cos(radians), 6), round(math.sin(radians), 6)


def uniform(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[float]:
    """A number from each range, drawn in their order."""
    return [rng.uniform(low, high) for low, high in ranges]


def polygon(x: Numbers, y: Numbers) -> Outline:
    """A polygon from the coordinates of its corners."""
    return np.array([x, y], dtype=np.float64).T


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    """A rectangle."""
    return polygon([left, right, right, left], [top, top, bottom, bottom])


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
    u, v = (half * _CIRCLE[:, axis] for axis, half in enumerate((across, down)))
    return polygon(x + u * cosine - v * sine, y + u * sine + v * cosine)


_CIRCLE = np.array([direction(15.0 * step) for step in range(24)])


def stripes(
    paint: Paint,
    shade: float,
    across: tuple[float, float],
    along: tuple[float, float],
    pitch: float,
    share: float = 0.4,
    lean: float = 0.0,
    upright: bool = False,
) -> list[Part]:
    """Parallel stripes on the part before, painted with `paint` at `shade` of its brightness.

    `across` is where the first stripe begins and the last ends, `along` where each begins and ends.
    Stripes are `pitch` apart and `share` of it wide, the far end moved across by `lean`; `upright`
    ones run down instead of to the right.
    """
    parts = []
    for index in range(int((across[1] - across[0]) / pitch) + 1):
        near = across[0] + index * pitch
        far = near + share * pitch
        stripe = polygon(
            [along[0], along[1], along[1], along[0]], [near, near + lean, far + lean, far]
        )
        parts.append(on(stripe[:, ::-1] if upright else stripe, paint, shade))
    return parts


def rivets(left: float, top: float, right: float, bottom: float) -> list[Part]:
    """Dark dots in offset rows on the part before."""
    return [
        on(
            ellipse(left + 0.17 * (column + 0.5 * (row % 2)), top + 0.8 * 0.17 * row, 0.045, 0.045),
            "dark",
        )
        for row in range(int((bottom - top) / (0.8 * 0.17)) + 1)
        for column in range(int((right - left) / 0.17) + 1)
    ]


def plumage(paint: Paint, left: float, top: float, right: float, bottom: float) -> list[Part]:
    """Overlapping feathers in rows on the part before, each a bright rim around a dark middle."""
    parts = []
    for row in range(int((bottom - top) / 0.17) + 1):
        for column in range(int((right - left) / 0.22) + 1):
            x, y = right - 0.22 * column - 0.11 * (row % 2), top + 0.17 * row
            parts.append(on(ellipse(x, y, 0.15, 0.13), "light"))
            parts.append(on(ellipse(x + 0.04, y, 0.11, 0.09), paint, 0.6))
    return parts


def wheel(x: float, y: float, radius: float) -> list[Part]:
    """A wheel around (x, y) with a hub."""
    tyre, hub = ellipse(x, y, radius, radius), ellipse(x, y, 0.5 * radius, 0.5 * radius)
    return [Part(tyre, "dark"), Part(hub, "light")]
