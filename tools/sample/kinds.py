"""The eight classes of the sample: each function draws one object at random, back to front.

A class shows in shape and structure alone; colours are drawn where an object is painted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shapes import (
    Paint,
    Part,
    box,
    direction,
    ellipse,
    on,
    plumage,
    polygon,
    rivets,
    smooth,
    stripes,
    uniform,
    wheel,
)


@dataclass(frozen=True)
class Kind:
    """A class of the sample, of which `draw` draws one object.

    `turn` is the largest rotation in degrees, either way. `extent` is a factor of the size, so that
    the classes cover areas of the same order.
    """

    class_id: int
    draw: Callable[[np.random.Generator], list[Part]]
    turn: float
    extent: float


def _aeroplane(rng: np.random.Generator) -> list[Part]:
    """From the side: riveted fuselage with a row of windows, swept wings, tail fin."""
    thick, sweep, span, chord = uniform(rng, (0.22, 0.3), (0.25, 0.55), (0.5, 0.75), (0.42, 0.55))
    fin, root = uniform(rng, (0.42, 0.58), (0.05, 0.3))

    def wing(reach: float, shade: float) -> list[Part]:
        tip = root - sweep
        outline = polygon([root, tip, tip - 0.5 * chord, root - chord], [0, reach, reach, 0])
        return [
            Part(outline, "body", shade),
            *rivets(-0.9, min(0.0, reach), 0.4, max(0.0, reach)),
        ]

    fuselage = polygon(
        [-1.0, -0.6, 0.55, 0.9, 1.05, 0.75, -0.45, -0.9],
        thick * np.array([-0.6, -1, -1, -0.6, 0.25, 1, 1, 0.1]),
    )
    cockpit = polygon([0.68, 0.84, 0.95, 0.72], thick * np.array([-0.75, -0.7, -0.1, -0.1]))
    parts = [
        *wing(-0.8 * span, 0.7),
        Part(polygon([-0.5, -0.85, -1.1, -0.98], [-0.1, -fin, -fin, 0]), "second"),
        *rivets(-1.15, -fin, -0.5, 0.0),
        Part(smooth(fuselage), "body"),
        *rivets(-1.0, -thick, 1.0, thick),
        on(box(-1.0, -thick, 1.0, -0.6 * thick), "light"),
        on(cockpit, "glass"),
    ]
    count = int(rng.integers(6, 9))
    for index in range(count):
        x = -0.6 + 1.2 * index / count
        parts.append(on(box(x, -0.55 * thick, x + 0.09, 0.0), "glass"))
    parts.append(Part(smooth(polygon([-0.58, -0.98, -1.2, -0.95], [0, 0.28, 0.28, 0])), "body"))
    parts += wing(span + 0.1, 0.95)
    x, y = root - 0.45 * sweep, 0.5 * span
    parts.append(Part(smooth(box(x - 0.22, y - 0.09, x + 0.18, y + 0.09), 2), "dark"))
    return parts


def _bird(rng: np.random.Generator) -> list[Part]:
    """Round body and head, scaled plumage, beak, eye, tail; wing folded or raised."""
    plump, tilt = uniform(rng, (0.38, 0.48), (-30, 0))
    lean_x, lean_y = direction(tilt)
    x, y = 0.62 * lean_x, 0.62 * lean_y - 0.12
    size = rng.uniform(0.22, 0.28)
    back = np.array([-0.4, -1.1, -1.05, -0.35])
    tail = polygon(back * lean_x, back * lean_y + np.array([-0.14, -0.18, 0.18, 0.18]))
    beak = polygon(x + size * np.array([0.7, 2.2, 0.7]), y + size * np.array([-0.45, 0.15, 0.5]))
    raised = rng.random() < 0.5
    reach = rng.uniform(0.75, 1.05)
    parts: list[Part] = []
    if raised:
        parts += _raised_wing(-0.1, reach, 0.7)
    else:
        for leg in (-0.08, 0.14):
            parts.append(Part(box(leg, 0.2, leg + 0.08, 0.75), "dark"))
            foot = polygon([leg - 0.03, leg + 0.03, leg + 0.24], [0.8, 0.68, 0.8])
            parts.append(Part(foot, "dark"))
    parts += [
        Part(tail, "second"),
        *plumage("second", -1.2, -0.4, 0.0, 0.8),
        Part(beak, "light"),
        Part(ellipse(0.0, 0.0, 0.64, plump, tilt), "body"),
        *plumage("body", -0.7, -0.5, 0.63, 0.5),
        Part(ellipse(x, y, size, size), "body", 1.05),
        Part(ellipse(x + 0.3 * size, y - 0.2 * size, 0.32 * size, 0.32 * size), "light", 1.3),
        Part(ellipse(x + 0.34 * size, y - 0.2 * size, 0.18 * size, 0.18 * size), "dark", 0.4),
    ]
    if raised:
        return parts + _raised_wing(0.12, 0.85 * reach, 1.0)
    folded = Part(ellipse(-0.15, 0.08, 0.45, 0.22, tilt + 8), "second")
    return [*parts, folded, *plumage("second", -0.65, -0.2, 0.35, 0.4)]


def _raised_wing(x: float, reach: float, shade: float) -> list[Part]:
    wing = polygon(
        x + np.array([0.26, 0.05, -0.2, -0.45, -0.75, -0.35]),
        [-0.05, -0.6 * reach, -reach, -0.9 * reach, -0.5 * reach, 0.05],
    )
    feathers = plumage("second", x - 0.8, -reach, x + 0.3, 0.05)
    return [Part(smooth(wing, 2), "second", shade), *feathers]


def _boat(rng: np.random.Generator) -> list[Part]:
    """A planked hull; a mast with seamed sails above it, or a cabin with a funnel."""
    deck, keel, bow = uniform(rng, (0.3, 0.42), (0.82, 0.95), (0.9, 1.05))
    hull = polygon(
        [-0.98, bow, bow - 0.15, bow - 0.45, -0.75],
        [deck, deck - 0.1, 0.5 * (deck + keel), keel, keel],
    )
    return [
        *(_sails(rng, deck, bow) if rng.random() < 0.6 else _cabin(rng, deck)),
        Part(hull, "body"),
        *stripes("body", 0.55, (deck + 0.06, keel), (-1.0, 1.1), pitch=0.13, share=0.35),
        on(box(-1.0, deck - 0.1, 1.1, deck + 0.06), "second"),
    ]


def _sails(rng: np.random.Generator, deck: float, bow: float) -> list[Part]:
    mast, top, belly = uniform(rng, (-0.15, 0.15), (-1.05, -0.9), (0.05, 0.2))
    main = polygon(
        [mast - 0.05, mast - 0.35 - belly, mast - 0.75, mast - 0.05],
        [top, -0.35, deck - 0.12, deck - 0.12],
    )
    jib = polygon(
        [mast + 0.04, mast + 0.35 + belly, bow - 0.1, mast + 0.04],
        [top + 0.15, -0.15, deck - 0.1, deck - 0.1],
    )
    return [
        Part(main, "light"),
        *stripes("second", 1.0, (top, deck + 0.6), (-1.0, 0.2), 0.24, share=0.3, lean=-0.5),
        Part(jib, "light", 0.85),
        *stripes("second", 1.0, (top, deck), (-0.2, 1.0), 0.24, share=0.3, lean=0.5),
        Part(box(mast - 0.06, top - 0.05, mast + 0.06, deck), "dark"),
    ]


def _cabin(rng: np.random.Generator, deck: float) -> list[Part]:
    height = rng.uniform(0.4, 0.6)
    left, right = rng.uniform(-0.7, -0.45), rng.uniform(0.3, 0.5)
    roof = deck - height
    portholes = [
        on(ellipse(left + 0.18 + 0.27 * index, deck - 0.55 * height, 0.09, 0.09), "glass")
        for index in range(3)
    ]
    return [
        Part(box(left + 0.2, roof - 0.45, left + 0.46, deck), "second"),
        *stripes("dark", 1.0, (roof - 0.45, deck), (-1.0, 1.0), pitch=0.24),
        Part(polygon([left, right - 0.1, right, left], [roof, roof, deck, deck]), "light"),
        *portholes,
    ]


def _bottle(rng: np.random.Generator) -> list[Part]:
    """Upright: glass with light along its sides, a latticed label, shoulders, neck and cap."""
    wide, neck, shoulder = uniform(rng, (0.33, 0.44), (0.13, 0.17), (-0.35, -0.1))
    top = -0.8
    half = [neck, neck, wide, wide, 0.86 * wide]
    down = [top, shoulder - 0.22, shoulder + 0.12, 0.94, 1.0]
    glass = polygon([*half, *(-x for x in reversed(half))], [*down, *reversed(down)])
    upper, lower = shoulder + rng.uniform(0.2, 0.3), rng.uniform(0.7, 0.85)
    parts = [Part(glass, "body")]
    bands = ((-1.0, -0.75, 0.5), (-0.55, -0.25, 1.7), (0.3, 0.5, 0.7), (0.75, 1, 0.45))
    for left, right, shade in bands:
        parts.append(on(box(left * wide, shoulder - 0.1, right * wide, 1.0), "body", shade))
    parts.append(on(box(-0.6 * neck, top, -0.1 * neck, shoulder), "body", 1.7))
    parts.append(Part(box(-wide, upper, wide, lower), "light"))
    for lean in (-0.7, 0.7):
        across, along = (upper - 0.7, lower + 0.7), (-wide, wide)
        parts += stripes("second", 1.0, across, along, 0.22, share=0.35, lean=lean * 2 * wide)
    parts.append(Part(box(-1.2 * neck, -1.04, 1.2 * neck, top + 0.02), "second"))
    ridges = stripes("second", 0.5, (-1.2 * neck, neck), (-1.04, top), pitch=0.08, upright=True)
    return parts + ridges


def _bus(rng: np.random.Generator) -> list[Part]:
    """A tall ribbed box with a row of windows, a door, a stripe and two wheels."""
    top = rng.uniform(-0.62, -0.48)
    bottom = 0.42
    band, radius = uniform(rng, (-0.02, 0.08), (0.14, 0.18))
    roof = top + 0.14
    parts = [
        Part(smooth(np.repeat(box(-1.0, top, 1.0, bottom), 2, axis=0), 2), "body"),
        *stripes("body", 0.65, (-1.0, 1.0), (band, bottom), pitch=0.12, upright=True),
        on(box(-1.0, top, 1.0, top + 0.07), "body", 1.3),
        on(box(-1.0, band + 0.1, 1.0, band + 0.2), "second"),
    ]
    count = int(rng.integers(4, 7))
    pitch = 1.5 / count
    for index in range(count):
        left = -0.92 + pitch * index
        gleam = polygon(
            [left, left, left + 0.4 * pitch, left + 0.65 * pitch], [band, band - 0.15, roof, roof]
        )
        parts.append(on(box(left, roof, left + 0.78 * pitch, band), "glass"))
        parts.append(on(gleam, "glass", 1.6))
    return [
        *parts,
        on(box(0.64, roof, 0.86, bottom - 0.04), "glass", 0.8),
        on(box(0.73, roof, 0.77, bottom - 0.04), "dark"),
        on(box(0.9, 0.22, 1.0, 0.31), "light", 1.2),
        *wheel(-0.58, bottom, radius),
        *wheel(0.42, bottom, radius),
    ]


def _car(rng: np.random.Generator) -> list[Part]:
    """Low and glossy: bonnet, a cabin with two windows, two large wheels, lights."""
    roof, waist, bonnet = uniform(rng, (-0.5, -0.36), (-0.08, 0.0), (0.45, 0.65))
    boot, radius = uniform(rng, (-0.85, -0.62), (0.2, 0.25))
    body = polygon(
        [-1.0, -1.02, boot, boot + 0.28, 0.12, bonnet, 0.95, 1.03],
        [0.36, 0.05, waist - 0.03, roof, roof, waist, waist + 0.12, 0.36],
    )
    head = roof + 0.08
    rear = polygon([boot + 0.12, boot + 0.32, -0.2, -0.2], [waist, head, head, waist])
    front = polygon([-0.12, -0.12, 0.1, bonnet - 0.13], [waist, head, head, waist])
    return [
        Part(smooth(np.repeat(body, 2, axis=0), 2), "body"),
        on(box(-1.1, waist + 0.02, 1.1, waist + 0.12), "body", 1.45),
        on(box(-1.1, 0.2, 1.1, 0.4), "body", 0.5),
        *_checks(waist + 0.14),
        on(rear, "glass"),
        on(front, "glass"),
        on(box(-0.2, waist, -0.14, 0.4), "dark"),
        on(ellipse(0.92, 0.15, 0.1, 0.07), "light", 1.2),
        on(box(-1.1, 0.06, -0.9, 0.2), "second"),
        *wheel(-0.58, 0.38, radius),
        *wheel(0.58, 0.38, radius),
    ]


def _checks(top: float) -> list[Part]:
    """A chequered band along the doors."""
    side = 0.1
    parts = []
    for row in range(2):
        for column in range(20):
            x, y = -1.0 + side * column, top + side * row
            paint: Paint = "light" if (row + column) % 2 else "dark"
            parts.append(on(box(x, y, x + side, y + side), paint))
    return parts


def _pottedplant(rng: np.random.Generator) -> list[Part]:
    """Leaves, one half lit, fanned out over a pot with a rim."""
    rim, foot, line = uniform(rng, (0.4, 0.5), (0.26, 0.36), (0.3, 0.42))
    count = int(rng.integers(8, 12))
    length, width = uniform(rng, (0.95, 1.3), (0.19, 0.25))
    parts: list[Part] = []
    for index in rng.permutation(count):
        degrees = -170.0 + 160.0 * (float(index) + 0.5) / count + rng.uniform(-8, 8)
        parts += _leaf(degrees, line, length * rng.uniform(0.7, 1.05), width, rng.uniform(0.8, 1.2))
    pot = polygon([-0.9 * rim, 0.9 * rim, foot, -foot], [line, line, 1.0, 1.0])
    return [
        *parts,
        Part(pot, "second"),
        on(box(0.4 * rim, line, rim, 1.0), "second", 0.6),
        Part(box(-rim, line - 0.04, rim, line + 0.14), "second", 1.25),
        on(box(-rim, line + 0.11, rim, line + 0.16), "second", 0.5),
    ]


def _leaf(degrees: float, line: float, reach: float, width: float, shade: float) -> list[Part]:
    x, y = direction(degrees)

    def shape(along: list[float], aside: list[float]) -> np.ndarray:
        u, v = np.array(along), np.array(aside)
        return polygon(
            0.1 * x + reach * (u * x - v * y),
            line - 0.02 + reach * (u * y + v * x) + 0.25 * u * u * abs(x),
        )

    leaf = shape(
        [0, 0.45, 0.75, 1.05, 0.75, 0.45, 0],
        [-0.04, -width, -0.8 * width, 0, 0.8 * width, width, 0.04],
    )
    lit = shape([0, 0.45, 1.05, 1.05], [0, -1.1 * width, -0.5 * width, 0])
    rib = shape([0, 1, 0], [0.03, 0, -0.03])
    return [
        Part(smooth(leaf, 2), "body", 0.55 * shade),
        on(lit, "body", 1.5 * shade),
        on(rib, "light"),
    ]


def _tvmonitor(rng: np.random.Generator) -> list[Part]:
    """A frame around a lit picture with scan lines and a reflection; a neck and a base."""
    top, bottom, bezel, foot = uniform(rng, (-0.75, -0.6), (0.42, 0.55), (0.08, 0.13), (0.35, 0.55))
    left, right, high, low = -1.0 + bezel, 1.0 - bezel, top + bezel, bottom - 1.3 * bezel
    land = high + (low - high) * rng.uniform(0.45, 0.7)
    rise = rng.uniform(-0.2, 0.2)
    hills = polygon([left, right, right, left], [land, land + rise, low, low])
    sun = ellipse(rng.uniform(-0.5, 0.5), rng.uniform(high + 0.25, low - 0.25), 0.2, 0.2)
    glint = rng.uniform(left, right - 0.7)
    gleam = polygon([glint + 0.35, glint + 0.6, glint + 0.25, glint], [high, high, low, low])
    return [
        Part(box(-0.15, bottom - 0.05, 0.15, 0.78), "second", 0.8),
        Part(smooth(box(-foot, 0.68, foot, 0.9), 1), "second"),
        Part(box(-1.0, top, 1.0, bottom), "second"),
        on(box(-1.0, top, 1.0, top + 0.04), "second", 1.4),
        on(ellipse(0.72, bottom - 0.6 * bezel, 0.035, 0.035), "light"),
        on(ellipse(0.84, bottom - 0.6 * bezel, 0.035, 0.035), "light"),
        Part(box(left, high, right, low), "light"),
        on(hills, "body"),
        on(sun, "body", 1.3),
        *stripes("dark", 0.9, (high + 0.1, low), (left, right), pitch=0.2, share=0.2),
        on(gleam, "light", 1.5),
    ]


KINDS = (
    Kind(1, _aeroplane, 25.0, 1.15),
    Kind(3, _bird, 20.0, 1.0),
    Kind(4, _boat, 8.0, 1.0),
    Kind(5, _bottle, 15.0, 1.1),
    Kind(6, _bus, 8.0, 1.0),
    Kind(7, _car, 8.0, 1.1),
    Kind(16, _pottedplant, 8.0, 0.95),
    Kind(20, _tvmonitor, 8.0, 0.9),
)
