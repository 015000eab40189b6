"""The page with the history of a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from segops.files import write_text
from segops.metrics.iou import Difference
from segops.report.html import decimal, render, signed
from segops.report.svg import Axis, below, beside, limit, outcome, whisker

STATES = {
    "champion": "in service: the version with the alias champion",
    "released": "was champion",
    "withdrawn": "taken back by a rollback",
    "candidate": "passed the gate and waits for an approval",
    "passed the gate": "passed the gate and did not become champion",
    "rejected": "refused by the gate",
    "inconclusive": "val has too few images to decide",
    "not decided": "registered; the gate has not decided on it",
}
"""What became of a version -> what that means."""
RELEASED = ("champion", "released", "withdrawn")
"""States of versions that are or were champion."""
WIDTH, HEIGHT = 1080, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 40
MOST_TICKS = 20
SHOWN = 6
"""Changes of a version that are shown at once; a click shows the rest."""


class Change(NamedTuple):
    """Something that differs between two versions.

    Attributes:
        kind: `parameters`, `data`, `code`, `software`, `machine`, `weights` or `unknown`.
        name: Which one, as a parameter's dotted key; empty where `kind` says it.
        text: How it differs, mostly "old → new".
    """

    kind: str
    name: str
    text: str


class Moment(NamedTuple):
    """Something that happened to a version.

    Attributes:
        time: UTC, ISO 8601.
        what: What happened, in words.
        by: Who or what did it.
        reason: Why, in words.
    """

    time: str
    what: str
    by: str
    reason: str


@dataclass(frozen=True)
class VersionRow:
    """A version in the history.

    Attributes:
        number: Its number.
        registered: When it was registered, UTC, ISO 8601; empty where nothing says so.
        by: Who or what started its run; empty where not recorded.
        state: One of :data:`STATES`, or a verdict of the gate that is none of them.
        is_gone: Whether the registry lacks it, so that the ledger alone tells of it.
        miou: The mIoU that was decided on, else the recorded one, 0..1; None where there is none.
        low: Lower end of its interval as evaluated; None where none belongs to `miou`.
        high: Upper end, likewise.
        val: Hash of the val that it was scored on; empty where not recorded.
        weights: SHA-256 of its weights; empty where not recorded.
        before: The version that `changes` are against: the champion of the decision, else the
            version before it; None for the first.
        compared: The champion that the gate held it against; None without one.
        difference: The gate's difference of mIoU to `compared` with its bounds; None without one.
        images: How many images that is over.
        changes: What changed since `before`.
        moments: What happened to it, oldest first.
    """

    number: str
    registered: str
    by: str
    state: str
    is_gone: bool
    miou: float | None
    low: float | None
    high: float | None
    val: str
    weights: str
    before: str | None
    compared: str | None
    difference: Difference | None
    images: float | None
    changes: tuple[Change, ...]
    moments: tuple[Moment, ...]

    @property
    def is_released(self) -> bool:
        """Whether it is or was champion."""
        return self.state in RELEASED


@dataclass(frozen=True)
class HistoryPage:
    """The content of the page.

    Attributes:
        model: Name of the registered model.
        rows: Its versions, the first one first; at least one.
        ledger: Where the ledger lies, for people.
        made: When this was read, in words.
    """

    model: str
    rows: tuple[VersionRow, ...]
    ledger: str
    made: str


def write_history_page(path: Path, history: HistoryPage) -> None:
    """Write the page, the last version first; the same inputs give the same bytes.

    Args:
        path: The HTML file.
        history: Its content.
    """
    rows = history.rows
    extent = limit([one.difference for one in rows if one.difference is not None])
    states = [one.state for one in rows]
    context = {
        "history": history,
        "rows": [
            {
                "row": one,
                "outcome": "" if one.difference is None else outcome(one.difference),
                "drawing": ""
                if one.difference is None
                else whisker(one.difference, extent, difference_words(one.difference)),
            }
            for one in reversed(rows)
        ],
        "states": {name: text for name, text in STATES.items() if name in states},
        "counts": {name: states.count(name) for name in STATES},
        "released": sum(one.is_released for one in rows),
        "chart": chart(rows),
        "shown": SHOWN,
    }
    write_text(path, render("history.html", **context))


def difference_words(one: Difference) -> str:
    """A difference and its bounds in words, as "+0.021, from -0.004 to +0.047"."""
    return f"{signed(one.difference)}, from {signed(one.low)} to {signed(one.high)}"


def chart(rows: Sequence[VersionRow]) -> Markup:
    """MIoU with its interval over the versions; empty where no version has one.

    A line leads from release to release; a dashed line stands where val became another one. A point
    is a link to the version's row.
    """
    known = [(place, one, one.miou) for place, one in enumerate(rows) if one.miou is not None]
    if not known:
        return Markup()
    ends = [end for _, one, miou in known for end in (miou, one.low, one.high) if end is not None]
    low, high = min(ends), max(ends)
    margin = max(0.08 * (high - low), 0.005)
    x = Axis(-0.5, max(len(rows) - 0.5, 0.5), LEFT, WIDTH - RIGHT)
    y = Axis(max(low - margin, 0), min(high + margin, 1), HEIGHT - BOTTOM, TOP)
    parts = [part for tick in y.ticks() for part in _rule(y(tick), f"{tick:g}")]
    step = -(-len(rows) // MOST_TICKS)
    parts += [
        below(x(place), HEIGHT - BOTTOM + 18, escape(one.number))
        for place, one in enumerate(rows)
        if place % step == 0
    ]
    parts.append(below((LEFT + WIDTH - RIGHT) // 2, HEIGHT - 5, "version", "axis-label"))
    parts.append(beside((TOP + HEIGHT - BOTTOM) / 2, "mIoU"))
    parts += _other_val([(place, one) for place, one, _ in known], x)
    released = " ".join(f"{x(place)},{y(miou)}" for place, one, miou in known if one.is_released)
    parts.append(f'<polyline class="releases" points="{released}"/>')
    size = min(4.5, max(2.0, 0.4 * (x(1) - x(0))))
    parts += [_point(one, x(place), y(miou), y, size) for place, one, miou in known]
    return Markup(
        f'<svg class="history" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="mIoU of the versions">{"".join(parts)}</svg>'
    )


def _rule(y: float, text: str) -> tuple[str, str]:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
    )


def _other_val(known: Sequence[tuple[int, VersionRow]], x: Axis) -> list[str]:
    """A line before each version that was scored on another val than the one before."""
    return [
        f'<line class="other-val" x1="{x(place - 0.5)}" x2="{x(place - 0.5)}" y1="{TOP}" '
        f'y2="{HEIGHT - BOTTOM}"><title>another val from version {escape(one.number)} on</title>'
        "</line>"
        for (_, before), (place, one) in pairwise(known)
        if one.val != before.val
    ]


def _point(one: VersionRow, left: float, top: float, y: Axis, size: float) -> str:
    interval, words = "", f"version {one.number}, {one.state}: mIoU {decimal(one.miou)}"
    if one.low is not None and one.high is not None:
        interval = (
            f'<line class="span" x1="{left}" x2="{left}" y1="{y(one.low)}" y2="{y(one.high)}"/>'
        )
        words += f" ({decimal(one.low)} to {decimal(one.high)})"
    kind = "champion" if one.state == "champion" else "release" if one.is_released else "refused"
    kind += " withdrawn" if one.state == "withdrawn" else ""
    size += 2 if one.state == "champion" else 0
    return (
        f'<a href="#v{escape(one.number)}" class="{kind}" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{interval}"
        f'<circle cx="{left}" cy="{top}" r="{size:.1f}"/></a>'
    )
