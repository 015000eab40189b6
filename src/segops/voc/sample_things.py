"""The other classes of the generated sample: bird, bottle, pottedplant, tvmonitor."""

from __future__ import annotations

import numpy as np

from .sample_shapes import Paint, Part, box, direction, ellipse, polygon, smooth, stripes


def bird(rng: np.random.Generator) -> list[Part]:
    """Round body and head, scaled plumage, beak, eye, tail; wing folded or raised."""
    plump = rng.uniform(0.38, 0.48)
    tilt = rng.uniform(-30, 0)
    lean_x, lean_y = direction(tilt)
    x, y = 0.62 * lean_x, 0.62 * lean_y - 0.12
    size = rng.uniform(0.22, 0.28)
    tail = polygon(
        (-0.4 * lean_x, -0.4 * lean_y - 0.14),
        (-1.1 * lean_x, -1.1 * lean_y - 0.18),
        (-1.05 * lean_x, -1.05 * lean_y + 0.18),
        (-0.35 * lean_x, -0.35 * lean_y + 0.18),
    )
    beak = polygon(
        (x + 0.7 * size, y - 0.45 * size),
        (x + 2.2 * size, y + 0.15 * size),
        (x + 0.7 * size, y + 0.5 * size),
    )
    raised = rng.random() < 0.5
    reach = rng.uniform(0.75, 1.05)
    parts: list[Part] = []
    if raised:
        parts += _raised_wing(-0.1, reach, 0.7)
    else:
        for leg in (-0.08, 0.14):
            parts.append(Part(box(leg, 0.2, leg + 0.08, 0.75), "dark"))
            foot = polygon((leg - 0.03, 0.8), (leg + 0.03, 0.68), (leg + 0.24, 0.8))
            parts.append(Part(foot, "dark"))
    parts += [
        Part(tail, "second"),
        *_plumage("second", (-1.2, -0.4, 0.0, 0.8)),
        Part(beak, "light"),
        Part(ellipse(0.0, 0.0, 0.64, plump, tilt), "body"),
        *_plumage("body", (-0.7, -0.5, 0.63, 0.5)),
        Part(ellipse(x, y, size, size), "body", 1.05),
        Part(ellipse(x + 0.3 * size, y - 0.2 * size, 0.32 * size, 0.32 * size), "light", 1.3),
        Part(ellipse(x + 0.34 * size, y - 0.2 * size, 0.18 * size, 0.18 * size), "dark", 0.4),
    ]
    if raised:
        parts += _raised_wing(0.12, 0.85 * reach, 1.0)
    else:
        parts.append(Part(ellipse(-0.15, 0.08, 0.45, 0.22, tilt + 8), "second"))
        parts += _plumage("second", (-0.65, -0.2, 0.35, 0.4))
    return parts


def _plumage(paint: Paint, bounds: tuple[float, float, float, float]) -> list[Part]:
    """Overlapping feathers in rows on the part before, each a bright rim around a dark middle."""
    left, top, right, bottom = bounds
    parts = []
    for row in range(int((bottom - top) / 0.17) + 1):
        for column in range(int((right - left) / 0.22) + 1):
            x, y = right - 0.22 * column - 0.11 * (row % 2), top + 0.17 * row
            parts.append(Part(ellipse(x, y, 0.15, 0.13), "light", inside=True))
            parts.append(Part(ellipse(x + 0.04, y, 0.11, 0.09), paint, 0.6, inside=True))
    return parts


def _raised_wing(x: float, reach: float, shade: float) -> list[Part]:
    wing = polygon(
        (x + 0.26, -0.05),
        (x + 0.05, -0.6 * reach),
        (x - 0.2, -reach),
        (x - 0.45, -0.9 * reach),
        (x - 0.75, -0.5 * reach),
        (x - 0.35, 0.05),
    )
    bounds = (x - 0.8, -reach, x + 0.3, 0.05)
    return [Part(smooth(wing, 2), "second", shade), *_plumage("second", bounds)]


def bottle(rng: np.random.Generator) -> list[Part]:
    """Upright: glass with light along its sides, a latticed label, shoulders, neck and cap."""
    wide = rng.uniform(0.33, 0.44)
    neck = rng.uniform(0.13, 0.17)
    shoulder = rng.uniform(-0.35, -0.1)
    top = -0.8
    glass = polygon(
        (-neck, top),
        (neck, top),
        (neck, shoulder - 0.22),
        (wide, shoulder + 0.12),
        (wide, 0.94),
        (0.86 * wide, 1.0),
        (-0.86 * wide, 1.0),
        (-wide, 0.94),
        (-wide, shoulder + 0.12),
        (-neck, shoulder - 0.22),
    )
    upper, lower = shoulder + rng.uniform(0.2, 0.3), rng.uniform(0.7, 0.85)
    parts = [Part(glass, "body")]
    for left, right, shade in (
        (-1.0, -0.75, 0.5),
        (-0.55, -0.25, 1.7),
        (0.3, 0.5, 0.7),
        (0.75, 1, 0.45),
    ):
        band = box(left * wide, shoulder - 0.1, right * wide, 1.0)
        parts.append(Part(band, "body", shade, inside=True))
    parts.append(Part(box(-0.6 * neck, top, -0.1 * neck, shoulder), "body", 1.7, inside=True))
    parts.append(Part(box(-wide, upper, wide, lower), "light"))
    for lean in (-0.7, 0.7):
        parts += stripes(
            "second",
            1.0,
            across=(upper - 0.7, lower + 0.7),
            along=(-wide, wide),
            pitch=0.22,
            share=0.35,
            lean=lean * 2 * wide,
        )
    parts.append(Part(box(-1.2 * neck, -1.04, 1.2 * neck, top + 0.02), "second"))
    parts += stripes(
        "second", 0.5, across=(-1.2 * neck, neck), along=(-1.04, top), pitch=0.08, upright=True
    )
    return parts


def pottedplant(rng: np.random.Generator) -> list[Part]:
    """Leaves, one half lit, fanned out over a pot with a rim."""
    rim = rng.uniform(0.4, 0.5)
    foot = rng.uniform(0.26, 0.36)
    line = rng.uniform(0.3, 0.42)
    count = int(rng.integers(8, 12))
    length = rng.uniform(0.95, 1.3)
    width = rng.uniform(0.19, 0.25)
    parts: list[Part] = []
    for index in rng.permutation(count):
        degrees = -170.0 + 160.0 * (float(index) + 0.5) / count + rng.uniform(-8, 8)
        parts += _leaf(degrees, line, length * rng.uniform(0.7, 1.05), width, rng.uniform(0.8, 1.2))
    pot = polygon((-0.9 * rim, line), (0.9 * rim, line), (foot, 1.0), (-foot, 1.0))
    parts.append(Part(pot, "second"))
    parts.append(Part(box(0.4 * rim, line, rim, 1.0), "second", 0.6, inside=True))
    parts += [
        Part(box(-rim, line - 0.04, rim, line + 0.14), "second", 1.25),
        Part(box(-rim, line + 0.11, rim, line + 0.16), "second", 0.5, inside=True),
    ]
    return parts


def _leaf(degrees: float, line: float, reach: float, width: float, shade: float) -> list[Part]:
    x, y = direction(degrees)

    def at(along: float, aside: float) -> tuple[float, float]:
        droop = 0.25 * along * along * abs(x)
        return (
            0.1 * x + reach * (along * x - aside * y),
            line - 0.02 + reach * (along * y + aside * x) + droop,
        )

    upper = [at(0.75, 0.8 * width), at(0.45, width), at(0, 0.04)]
    lower = [at(0, -0.04), at(0.45, -width), at(0.75, -0.8 * width)]
    leaf = smooth(polygon(*lower, at(1.05, 0.0), *upper), 2)
    lit = polygon(at(0, 0), at(0.45, -1.1 * width), at(1.05, -0.5 * width), at(1.05, 0))
    rib = polygon(at(0, 0.03), at(1.0, 0.0), at(0, -0.03))
    return [
        Part(leaf, "body", 0.55 * shade),
        Part(lit, "body", 1.5 * shade, inside=True),
        Part(rib, "light", inside=True),
    ]


def tvmonitor(rng: np.random.Generator) -> list[Part]:
    """A frame around a lit picture with scan lines and a reflection; a neck and a base."""
    top = rng.uniform(-0.75, -0.6)
    bottom = rng.uniform(0.42, 0.55)
    bezel = rng.uniform(0.08, 0.13)
    foot = rng.uniform(0.35, 0.55)
    left, right, high, low = -1.0 + bezel, 1.0 - bezel, top + bezel, bottom - 1.3 * bezel
    parts = [
        Part(box(-0.15, bottom - 0.05, 0.15, 0.78), "second", 0.8),
        Part(smooth(box(-foot, 0.68, foot, 0.9), 1), "second"),
        Part(box(-1.0, top, 1.0, bottom), "second"),
        Part(box(-1.0, top, 1.0, top + 0.04), "second", 1.4, inside=True),
    ]
    for x in (0.72, 0.84):
        parts.append(Part(ellipse(x, bottom - 0.6 * bezel, 0.035, 0.035), "light", inside=True))
    land = high + (low - high) * rng.uniform(0.45, 0.7)
    rise = rng.uniform(-0.2, 0.2)
    hills = polygon((left, land), (right, land + rise), (right, low), (left, low))
    sun = ellipse(rng.uniform(-0.5, 0.5), rng.uniform(high + 0.25, low - 0.25), 0.2, 0.2)
    glint = rng.uniform(left, right - 0.7)
    gleam = polygon((glint + 0.35, high), (glint + 0.6, high), (glint + 0.25, low), (glint, low))
    parts += [
        Part(box(left, high, right, low), "light"),
        Part(hills, "body", inside=True),
        Part(sun, "body", 1.3, inside=True),
        *stripes("dark", 0.9, across=(high + 0.1, low), along=(left, right), pitch=0.2, share=0.2),
        Part(gleam, "light", 1.5, inside=True),
    ]
    return parts
