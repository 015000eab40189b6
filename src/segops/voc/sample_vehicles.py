"""What moves, of the classes of the generated sample: aeroplane, boat, bus, car."""

from __future__ import annotations

import numpy as np

from .sample_shapes import Outline, Paint, Part, box, dots, ellipse, polygon, smooth, stripes, wheel


def aeroplane(rng: np.random.Generator) -> list[Part]:
    """From the side: riveted fuselage with a row of windows, swept wings, tail fin."""
    thick = rng.uniform(0.22, 0.3)
    sweep = rng.uniform(0.25, 0.55)
    span = rng.uniform(0.5, 0.75)
    chord = rng.uniform(0.42, 0.55)
    fin = rng.uniform(0.42, 0.58)
    root = rng.uniform(0.05, 0.3)
    fuselage = polygon(
        (-1.0, -0.6 * thick),
        (-0.6, -thick),
        (0.55, -thick),
        (0.9, -0.6 * thick),
        (1.05, 0.25 * thick),
        (0.75, thick),
        (-0.45, thick),
        (-0.9, 0.1 * thick),
    )
    cockpit = polygon(
        (0.68, -0.75 * thick), (0.84, -0.7 * thick), (0.95, -0.1 * thick), (0.72, -0.1 * thick)
    )

    def wing(reach: float, shade: float) -> list[Part]:
        outline: Outline = polygon(
            (root, 0.0),
            (root - sweep, reach),
            (root - sweep - 0.5 * chord, reach),
            (root - chord, 0.0),
        )
        bounds = (-0.9, min(0.0, reach), 0.4, max(0.0, reach))
        return [Part(outline, "body", shade), *dots("dark", 1.0, bounds, 0.17, 0.045)]

    parts = [
        *wing(-0.8 * span, 0.7),
        Part(polygon((-0.5, -0.1), (-0.85, -fin), (-1.1, -fin), (-0.98, 0.0)), "second"),
        *dots("dark", 1.0, (-1.15, -fin, -0.5, 0.0), 0.17, 0.045),
        Part(smooth(fuselage), "body"),
        *dots("dark", 1.0, (-1.0, -thick, 1.0, thick), 0.17, 0.045),
        Part(box(-1.0, -thick, 1.0, -0.6 * thick), "light", inside=True),
        Part(cockpit, "glass", inside=True),
    ]
    count = int(rng.integers(6, 9))
    for index in range(count):
        x = -0.6 + 1.2 * index / count
        parts.append(Part(box(x, -0.55 * thick, x + 0.09, 0.0), "glass", inside=True))
    parts.append(Part(smooth(polygon((-0.58, 0), (-0.98, 0.28), (-1.2, 0.28), (-0.95, 0))), "body"))
    parts += wing(span + 0.1, 0.95)
    x, y = root - 0.45 * sweep, 0.5 * span
    parts.append(Part(smooth(box(x - 0.22, y - 0.09, x + 0.18, y + 0.09), 2), "dark"))
    return parts


def boat(rng: np.random.Generator) -> list[Part]:
    """A planked hull; a mast with seamed sails above it, or a cabin with a funnel."""
    deck = rng.uniform(0.3, 0.42)
    keel = rng.uniform(0.82, 0.95)
    bow = rng.uniform(0.9, 1.05)
    parts = _sails(rng, deck, bow) if rng.random() < 0.6 else _cabin(rng, deck)
    hull = polygon(
        (-0.98, deck),
        (bow, deck - 0.1),
        (bow - 0.15, 0.5 * (deck + keel)),
        (bow - 0.45, keel),
        (-0.75, keel),
    )
    parts.append(Part(hull, "body"))
    parts += stripes(
        "body", 0.55, across=(deck + 0.06, keel), along=(-1.0, 1.1), pitch=0.13, share=0.35
    )
    parts.append(Part(box(-1.0, deck - 0.1, 1.1, deck + 0.06), "second", inside=True))
    return parts


def _sails(rng: np.random.Generator, deck: float, bow: float) -> list[Part]:
    mast = rng.uniform(-0.15, 0.15)
    top = rng.uniform(-1.05, -0.9)
    belly = rng.uniform(0.05, 0.2)
    main = polygon(
        (mast - 0.05, top),
        (mast - 0.35 - belly, -0.35),
        (mast - 0.75, deck - 0.12),
        (mast - 0.05, deck - 0.12),
    )
    jib = polygon(
        (mast + 0.04, top + 0.15),
        (mast + 0.35 + belly, -0.15),
        (bow - 0.1, deck - 0.1),
        (mast + 0.04, deck - 0.1),
    )
    parts = [Part(main, "light")]
    parts += stripes(
        "second", 1.0, across=(top, deck + 0.6), along=(-1.0, 0.2), pitch=0.24, share=0.3, lean=-0.5
    )
    parts.append(Part(jib, "light", 0.85))
    parts += stripes(
        "second", 1.0, across=(top, deck), along=(-0.2, 1.0), pitch=0.24, share=0.3, lean=0.5
    )
    parts.append(Part(box(mast - 0.06, top - 0.05, mast + 0.06, deck), "dark"))
    return parts


def _cabin(rng: np.random.Generator, deck: float) -> list[Part]:
    height = rng.uniform(0.4, 0.6)
    left, right = rng.uniform(-0.7, -0.45), rng.uniform(0.3, 0.5)
    roof = deck - height
    house = polygon((left, roof), (right - 0.1, roof), (right, deck), (left, deck))
    parts = [Part(box(left + 0.2, roof - 0.45, left + 0.46, deck), "second")]
    parts += stripes("dark", 1.0, across=(roof - 0.45, deck), along=(-1.0, 1.0), pitch=0.24)
    parts.append(Part(house, "light"))
    for index in range(3):
        x = left + 0.18 + 0.27 * index
        parts.append(Part(ellipse(x, deck - 0.55 * height, 0.09, 0.09), "glass", inside=True))
    return parts


def bus(rng: np.random.Generator) -> list[Part]:
    """A tall ribbed box with a row of windows, a door, a stripe and two wheels."""
    top = rng.uniform(-0.62, -0.48)
    bottom = 0.42
    band = rng.uniform(-0.02, 0.08)
    radius = rng.uniform(0.14, 0.18)
    roof = top + 0.14
    parts = [
        Part(smooth(np.repeat(box(-1.0, top, 1.0, bottom), 2, axis=0), 2), "body"),
        *stripes("body", 0.65, across=(-1.0, 1.0), along=(band, bottom), pitch=0.12, upright=True),
        Part(box(-1.0, top, 1.0, top + 0.07), "body", 1.3, inside=True),
        Part(box(-1.0, band + 0.1, 1.0, band + 0.2), "second", inside=True),
    ]
    count = int(rng.integers(4, 7))
    pitch = 1.5 / count
    for index in range(count):
        left = -0.92 + pitch * index
        gleam = polygon(
            (left, band),
            (left, band - 0.15),
            (left + 0.4 * pitch, roof),
            (left + 0.65 * pitch, roof),
        )
        parts.append(Part(box(left, roof, left + 0.78 * pitch, band), "glass", inside=True))
        parts.append(Part(gleam, "glass", 1.6, inside=True))
    parts += [
        Part(box(0.64, roof, 0.86, bottom - 0.04), "glass", 0.8, inside=True),
        Part(box(0.73, roof, 0.77, bottom - 0.04), "dark", inside=True),
        Part(box(0.9, 0.22, 1.0, 0.31), "light", 1.2, inside=True),
    ]
    for x in (-0.58, 0.42):
        parts += wheel(x, bottom, radius)
    return parts


def car(rng: np.random.Generator) -> list[Part]:
    """Low and glossy: bonnet, a cabin with two windows, two large wheels, lights."""
    roof = rng.uniform(-0.5, -0.36)
    waist = rng.uniform(-0.08, 0.0)
    bonnet = rng.uniform(0.45, 0.65)
    boot = rng.uniform(-0.85, -0.62)
    radius = rng.uniform(0.2, 0.25)
    body = polygon(
        (-1.0, 0.36),
        (-1.02, 0.05),
        (boot, waist - 0.03),
        (boot + 0.28, roof),
        (0.12, roof),
        (bonnet, waist),
        (0.95, waist + 0.12),
        (1.03, 0.36),
    )
    head = roof + 0.08
    rear = polygon((boot + 0.12, waist), (boot + 0.32, head), (-0.2, head), (-0.2, waist))
    front = polygon((-0.12, waist), (-0.12, head), (0.1, head), (bonnet - 0.13, waist))
    parts = [
        Part(smooth(np.repeat(body, 2, axis=0), 2), "body"),
        Part(box(-1.1, waist + 0.02, 1.1, waist + 0.12), "body", 1.45, inside=True),
        Part(box(-1.1, 0.2, 1.1, 0.4), "body", 0.5, inside=True),
        *_checks(waist + 0.14),
        Part(rear, "glass", inside=True),
        Part(front, "glass", inside=True),
        Part(box(-0.2, waist, -0.14, 0.4), "dark", inside=True),
        Part(ellipse(0.92, 0.15, 0.1, 0.07), "light", 1.2, inside=True),
        Part(box(-1.1, 0.06, -0.9, 0.2), "second", inside=True),
    ]
    for x in (-0.58, 0.58):
        parts += wheel(x, 0.38, radius)
    return parts


def _checks(top: float) -> list[Part]:
    """A chequered band along the doors."""
    side = 0.1
    parts = []
    for row in range(2):
        for column in range(20):
            x, y = -1.0 + side * column, top + side * row
            paint: Paint = "light" if (row + column) % 2 else "dark"
            parts.append(Part(box(x, y, x + side, y + side), paint, inside=True))
    return parts
