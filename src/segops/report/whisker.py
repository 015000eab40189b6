"""A difference and its interval, drawn on one line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from markupsafe import Markup

from segops.metrics.iou import Difference
from segops.report.figures import level
from segops.report.html import NARROW, signed
from segops.report.svg import Axis

Direction = Literal["better", "worse", "even"]

WIDTH, HEIGHT, MARGIN = 120, 16, 6
LIMITS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


def known(one: Difference | None) -> bool:
    """Whether there is a difference: a number that is not NaN."""
    return one is not None and math.isfinite(one.difference)


def bounds(one: Difference) -> tuple[float, float] | None:
    """The interval; None where there is none."""
    return (one.low, one.high) if math.isfinite(one.low) and math.isfinite(one.high) else None


def outcome(one: Difference | None) -> Direction:
    """Better or worse only where the interval excludes 0."""
    ends = None if one is None else bounds(one)
    if ends is None:
        return "even"
    return "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "even"


def limit(differences: Iterable[Difference]) -> float:
    """The round number that all of the differences and their intervals lie within."""
    ends = [0.0]
    for one in differences:
        if known(one):
            ends += [abs(one.difference), *(abs(end) for end in bounds(one) or ())]
    return next((bound for bound in LIMITS if bound >= max(ends)), LIMITS[-1])


def words(one: Difference, confidence: float) -> str:
    """The difference and its interval, as "+0.021, 95 % interval -0.004 to +0.047"."""
    ends = bounds(one)
    if ends is None:
        return f"{signed(one.difference)}, no interval"
    at = level(confidence, NARROW)
    return f"{signed(one.difference)}, {at} interval {signed(ends[0])} to {signed(ends[1])}"


def whisker(one: Difference, extent: float, title: str) -> Markup:
    """A point with its interval about a line at zero; the drawing spans -`extent` to `extent`.

    `title` is shown to a pointer that rests on it, and read to those who cannot see.
    """
    x = Axis(-extent, extent, MARGIN, WIDTH - MARGIN)
    middle = HEIGHT / 2
    parts = [Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(x(0), HEIGHT)]
    ends = bounds(one)
    if ends is not None:
        low, high = (x(min(max(end, -extent), extent)) for end in ends)
        parts.append(
            Markup('<line class="span" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                low, high, middle, middle
            )
        )
        parts += [
            Markup('<line class="span" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                end, middle - 3, middle + 3
            )
            for end in (low, high)
        ]
    point = x(min(max(one.difference, -extent), extent))
    parts.append(Markup('<circle cx="{}" cy="{}" r="3.5"/>').format(point, middle))
    return Markup(
        '<svg class="whisker {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img">'
        "<title>{}</title>{}</svg>"
    ).format(outcome(one), WIDTH, HEIGHT, WIDTH, HEIGHT, title, Markup("").join(parts))
