"""Small charts as inline SVG: crisp at every size, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from segops.metrics.iou import Difference
from segops.report.figures import level
from segops.report.html import NARROW, signed

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
WHISKER_WIDTH, WHISKER_HEIGHT, MARGIN = 120, 16, 6
LIMITS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Axis:
    """A linear axis: the value `low` is at pixel `start`, `high`, which is above it, at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the axis."""
        rough = (self.high - self.low) / max(count, 1)
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def histogram(
    series: Mapping[str, Sequence[float]], x_label: str, bins: int = 20, mark: float | None = None
) -> Markup:
    """Histograms of shares side by side, one bar a series in every bin.

    `series` holds values in [0, 1] by the series' name, as "train": a class of the style sheet.
    Bins lie between 0 and the largest value or `mark`, a bound that is drawn as a line.
    """
    values = [value for group in series.values() for value in group]
    high = max([0.05, *values, *([] if mark is None else [mark * 1.04])])
    shares = {
        name: np.histogram(group, bins=bins, range=(0, high))[0] / max(len(group), 1)
        for name, group in series.items()
    }
    top = max([0.01, *(float(share.max()) for share in shares.values())])
    x, y = _axes(0, high, 0, top * 1.05)
    parts = _frame(x, y, (x_label, "share of images"), (_percent, _percent))
    width = (x.end - x.start) / bins
    bar = (width - 1.5) / max(len(series), 1)
    for place, (name, share) in enumerate(shares.items()):
        for index, part in enumerate(share):
            if part > 0:
                left = x.start + index * width + place * bar
                span = f"{_percent(index * high / bins)} to {_percent((index + 1) * high / bins)}"
                parts.append(
                    f'<rect class="{escape(name)}" x="{left:.1f}" y="{y(float(part))}" '
                    f'width="{bar:.1f}" height="{y(0) - y(float(part)):.1f}">'
                    f"<title>{escape(name)}, {span}: {part:.1%} of images</title></rect>"
                )
    if mark is not None:
        parts.append(
            f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="{TOP}" y2="{y(0)}"/>'
            f'<text class="mark-label" x="{x(mark) - 5}" y="{TOP + 10}" text-anchor="end">'
            f"bound {_percent(mark)}</text>"
        )
    return _svg(parts, f"Histogram of {x_label}")


def bubbles(series: Mapping[str, Mapping[tuple[int, int], int]]) -> Markup:
    """Image sizes: a bubble at every width and height, its area the number of images.

    `series` holds the number of images by (width, height) in pixels, by the series' name.
    """
    sizes = [size for group in series.values() for size in group]
    most = max((count for group in series.values() for count in group.values()), default=1)
    x, y = _axes(
        *_span([width for width, _ in sizes] or [0]), *_span([height for _, height in sizes] or [0])
    )
    parts = _frame(x, y, ("width, pixels", "height, pixels"), (_plain, _plain))
    for name, group in series.items():
        for (width, height), count in sorted(group.items(), key=lambda one: (-one[1], one[0])):
            parts.append(
                f'<circle class="{escape(name)}" cx="{x(width)}" cy="{y(height)}" '
                f'r="{2.5 + 13 * math.sqrt(count / most):.1f}">'
                f"<title>{escape(name)}: {count} of {width} × {height}</title></circle>"
            )
    return _svg(parts, "Image sizes")


def line(
    points: Sequence[tuple[float, float]],
    title: str,
    name: str,
    best: tuple[float, float] | None = None,
    unit: bool = False,
) -> Markup:
    """A curve over epochs.

    Args:
        points: (epoch, value), at least one.
        title: What the values are, for those who cannot see the curve.
        name: Class of the curve in the style sheet.
        best: The point to mark.
        unit: The values are shares: the axis starts at 0 and ends at 1 at most.
    """
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    high = max(values) * 1.05 if max(values) > 0 else 1.0
    x, y = _axes(min(epochs), max(max(epochs), min(epochs) + 1), 0, min(high, 1) if unit else high)
    parts = _frame(x, y, ("epoch", ""), (_plain, _plain))
    path = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points)
    parts.append(f'<polyline class="curve {escape(name)}" points="{path}"/>')
    for epoch, value in points:
        parts.append(
            f'<circle class="hit" cx="{x(epoch)}" cy="{y(value)}" r="6">'
            f"<title>epoch {epoch:g}: {value:.4f}</title></circle>"
        )
    if best is not None:
        parts.append(
            f'<circle class="dot {escape(name)}" cx="{x(best[0])}" cy="{y(best[1])}" r="4.5"/>'
        )
    return _svg(parts, f"{title} by epoch")


def heat_map(
    shares: NDArray[np.float64],
    names: Sequence[str],
    links: Mapping[tuple[int, int], str] | None = None,
) -> Markup:
    """A row-normalised confusion matrix, float64 (K, K) in [0, 1]; rows are true classes.

    A row of NaN is a class without true pixels. `links` are keys of figures whose images the page
    can show, by row and column.
    """
    links = links or {}
    cell = 34 if len(names) > 14 else 44
    longest = max((len(name) for name in names), default=1)
    left, top = 7.2 * longest + 26, 7.2 * longest * 0.75 + 30
    right = 7.2 * longest * 0.7 - cell / 2
    width, height = left + cell * len(names) + max(right, 8), top + cell * len(names) + 8
    parts = [
        f'<text class="axis-label" x="{left + cell * len(names) / 2:.1f}" y="12" '
        f'text-anchor="middle">predicted</text>',
        f'<text class="axis-label" text-anchor="middle" '
        f'transform="translate(12 {top + cell * len(names) / 2:.1f}) rotate(-90)">true</text>',
    ]
    for index, name in enumerate(names):
        centre = cell * (index + 0.5)
        parts.append(
            f'<text class="tick" x="{left - 8:.1f}" y="{top + centre + 4:.1f}" '
            f'text-anchor="end">{escape(name)}</text>'
            f'<text class="tick" transform="translate({left + centre + 4:.1f} {top - 8:.1f}) '
            f'rotate(-45)">{escape(name)}</text>'
        )
    for row, truth in enumerate(names):
        for column, predicted in enumerate(names):
            drawn = _cell(
                left + cell * column, top + cell * row, cell, float(shares[row, column]),
                truth, predicted,
            )  # fmt: skip
            if key := links.get((row, column)):
                drawn = link(key, f"{truth} predicted as {predicted}", drawn)
            parts.append(drawn)
    return Markup(
        f'<svg class="heat" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="{"group" if links else "img"}" aria-label="Confusion matrix">{"".join(parts)}</svg>'
    )


def link(key: str, text: str, content: str) -> str:
    """Part of a drawing on which a click shows the images of a figure.

    `key` is one of :mod:`segops.evaluate.places`, `text` names the figure, `content` is SVG.
    """
    said = escape(text)
    return (
        f'<a href="#only={key}" data-only="{key}" data-label="{said}" aria-label="{said}">'
        f"{content}</a>"
    )


def _cell(x: float, y: float, size: int, share: float, truth: str, predicted: str) -> str:
    box = f'x="{x + 0.75:.1f}" y="{y + 0.75:.1f}" width="{size - 1.5}" height="{size - 1.5}" rx="3"'
    if math.isnan(share):
        return f'<rect class="empty" {box}><title>no true pixel of {escape(truth)}</title></rect>'
    title = f"{share:.2%} of the pixels of {escape(truth)} predicted as {escape(predicted)}"
    # The square root lets small confusions show.
    strength = math.sqrt(share)
    number, text = f"{share * 100:.0f}", ""
    if number != "0":
        side = "strong" if strength > 0.78 else "middle" if strength > 0.5 else "weak"
        text = (
            f'<text class="cell {side}" x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" '
            f'text-anchor="middle">{number}</text>'
        )
    return (
        f'<g><title>{title}</title><rect class="ground" {box}/>'
        f'<rect class="heat-fill" {box} fill-opacity="{strength:.3f}"/>{text}</g>'
    )


def outcome(one: Difference) -> Literal["better", "worse", "even"]:
    """Better or worse only where there is an interval and it excludes 0."""
    return "better" if one.low > 0 else "worse" if one.high < 0 else "even"


def limit(differences: Iterable[Difference]) -> float:
    """The round number that all of the differences and their intervals lie within."""
    ends = [abs(end) for one in differences for end in (one.difference, one.low, one.high)]
    most = max((end for end in ends if math.isfinite(end)), default=0.0)
    return next((bound for bound in LIMITS if bound >= most), LIMITS[-1])


def words(one: Difference, confidence: float) -> str:
    """The difference and its interval, as "+0.021, 95 % interval -0.004 to +0.047"."""
    if math.isnan(one.difference):
        return "no difference"
    if math.isnan(one.low):
        return f"{signed(one.difference)}, no interval"
    at = level(confidence, NARROW)
    return f"{signed(one.difference)}, {at} interval {signed(one.low)} to {signed(one.high)}"


def whisker(one: Difference, extent: float, title: str) -> Markup:
    """A point with its interval about a line at zero, from -`extent` to `extent`; empty if unknown.

    `title` is shown to a pointer that rests on it, and read to those who cannot see.
    """
    if math.isnan(one.difference):
        return Markup()
    x = Axis(-extent, extent, MARGIN, WHISKER_WIDTH - MARGIN)
    middle = WHISKER_HEIGHT / 2

    def place(value: float) -> float:
        return x(min(max(value, -extent), extent))

    parts = [_line("zero", x(0), x(0), 0, WHISKER_HEIGHT)]
    if not math.isnan(one.low):
        low, high = place(one.low), place(one.high)
        parts.append(_line("span", low, high, middle, middle))
        parts += [_line("span", end, end, middle - 3, middle + 3) for end in (low, high)]
    size = f'viewBox="0 0 {WHISKER_WIDTH} {WHISKER_HEIGHT}" width="{WHISKER_WIDTH}"'
    return Markup(
        f'<svg class="whisker {outcome(one)}" {size} height="{WHISKER_HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}"
        f'<circle cx="{place(one.difference)}" cy="{middle}" r="3.5"/></svg>'
    )


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of an axis around values, with space for a mark on the outermost."""
    low, high = min(values), max(values)
    margin = max((high - low) * 0.12, high * 0.06, 1.0)
    return max(low - margin, 0.0), high + margin


def _axes(low_x: float, high_x: float, low_y: float, high_y: float) -> tuple[Axis, Axis]:
    return (
        Axis(low_x, high_x, LEFT, WIDTH - RIGHT),
        Axis(low_y, high_y, HEIGHT - BOTTOM, TOP),
    )


def _frame(
    x: Axis,
    y: Axis,
    labels: tuple[str, str],
    texts: tuple[Callable[[float], str], Callable[[float], str]],
) -> list[str]:
    parts = [part for tick in y.ticks() for part in rule(y(tick), texts[1](tick))]
    parts += [below(x(tick), HEIGHT - BOTTOM + 17, texts[0](tick)) for tick in x.ticks()]
    parts.append(below((LEFT + WIDTH - RIGHT) // 2, HEIGHT - 6, escape(labels[0]), "axis-label"))
    return [*parts, beside((TOP + HEIGHT - BOTTOM) / 2, escape(labels[1]))]


def rule(y: float, text: str) -> tuple[str, str]:
    """A horizontal line of the grid, and the text left of it."""
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
    )


def below(x: float, y: float, text: str, kind: str = "tick") -> str:
    """A text below the plot, centred at `x`."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="middle">{text}</text>'


def beside(y: float, text: str, x: int = 12) -> str:
    """The label of the vertical axis, centred at `y`."""
    return (
        f'<text class="axis-label" text-anchor="middle" '
        f'transform="translate({x} {y:.0f}) rotate(-90)">{text}</text>'
    )


def _svg(parts: Sequence[str], title: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _percent(value: float) -> str:
    return f"{value * 100:.3g}%"


def _plain(value: float) -> str:
    return f"{value:g}"
