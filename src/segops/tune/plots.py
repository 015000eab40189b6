"""Plots of a learning-rate range test and of a parameter search."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from segops.files import atomic_path

if TYPE_CHECKING:
    from segops.params.tune import RangeParams
    from segops.record.tuning import Trial
    from segops.tune.rate import RangeTest

INK, MUTED, LINE, ACCENT = "#161a20", "#59626f", "#dfe3e8", "#2159c9"
WARNING, DOT = "#b3261e", "#aeb6c1"


def write_range_picture(path: Path, found: RangeTest) -> None:
    """Draw the loss over the learning rate, with the points for a suggestion."""
    figure, axes = _figure(7.2, 4.2)
    axes.plot(found.rates, found.losses, ".", color=DOT, markersize=4, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color=INK, linewidth=1.6, label="smoothed")
    for rate, colour, label in (
        (found.steepest, ACCENT, "steepest descent"),
        (found.cautious, MUTED, "a factor of 10 below divergence"),
        (found.divergence, WARNING, "divergence"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linewidth=1.2, label=f"{label}: {rate:.1e}")
    axes.set_xscale("log")
    shown = sorted(found.smoothed)
    low, high = shown[0], max(found.smoothed[0], shown[int(0.8 * (len(shown) - 1))])
    margin = 0.25 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + 2 * margin)
    axes.set_xlabel("train.lr", color=MUTED)
    axes.set_ylabel("loss", color=MUTED)
    figure.legend(frameon=False, fontsize=8, labelcolor=INK, loc="outside upper left", ncols=3)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(labelsize=9, colors=INK)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def write_search_picture(
    path: Path, trials: Sequence[Trial], best: Trial, ranges: Mapping[str, RangeParams]
) -> None:
    """Draw every trial as a line over parallel axes: its values, then its score.

    Complete trials are coloured by their score; dashed grey lines are trials that were stopped
    early or failed. The best trial is drawn on top, with its values above the axes.
    """
    shown = [key for key in ranges if key in best.values]
    scales = [_Scale.of(ranges[key]) for key in shown]
    scores = [trial.score or 0.0 for trial in trials if trial.outcome == "complete"]
    lowest, highest = min(scores), max(scores)
    score = _Scale(lowest, highest if highest > lowest else lowest + 0.01)
    figure, axes = _figure(2.4 + 1.9 * len(scales), 4.4)
    axes.axis("off")
    colours = colormaps["viridis"]
    for trial in sorted(trials, key=lambda trial: (trial.outcome == "complete", trial.score or 0)):
        places = [scale(trial.values[key]) for scale, key in zip(scales, shown, strict=True)]
        if trial.outcome == "complete":
            places.append(score(trial.score))
            axes.plot(places, color=colours(0.95 - 0.9 * places[-1]), linewidth=1.2)
        else:
            axes.plot(places, color=DOT, linewidth=0.8, linestyle="--")
    names, scales = [*shown, "selection mIoU"], [*scales, score]
    values = [*(best.values[key] for key in shown), best.score]
    places = [scale(value) for scale, value in zip(scales, values, strict=True)]
    axes.plot(places, color=ACCENT, linewidth=2.6, marker="o", markersize=4)
    for place, (name, scale, value) in enumerate(zip(names, scales, values, strict=True)):
        _draw_axis(axes, place, name, scale, value)
    axes.set_xlim(-0.45, len(shown) + 0.45)
    axes.set_ylim(-0.13, 1.2)
    counted = Counter(trial.outcome for trial in trials)
    counts = ", ".join(
        f"{counted[outcome]} {outcome}"
        for outcome in ("complete", "pruned", "failed")
        if counted[outcome]
    )
    title = f"{counts}; darker is better; best: trial {best.number}"
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    _save(figure, path)


@dataclass(frozen=True)
class _Scale:
    """The position of a value on an axis, 0 at the bottom and 1 at the top."""

    low: float
    high: float
    is_log: bool = False
    choices: list[str] | None = None

    @classmethod
    def of(cls, given: RangeParams) -> _Scale:
        if given.choices is not None:
            return cls(0, 1, choices=[_shown(choice) for choice in given.choices])
        assert given.low is not None
        assert given.high is not None
        return cls(given.low, given.high, given.log)

    def __call__(self, value: Any) -> float:
        if self.choices is not None:
            return self.choices.index(_shown(value)) / max(1, len(self.choices) - 1)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Positions and labels."""
        if self.choices is not None:
            return [(self(choice), choice) for choice in self.choices]
        values = (np.geomspace if self.is_log else np.linspace)(self.low, self.high, 5)
        return [(place / 4, _shown(float(value))) for place, value in enumerate(values)]


def _draw_axis(axes: Any, place: int, name: str, scale: _Scale, best: Any) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=1)
    for height, label in scale.ticks():
        axes.plot([place - 0.02, place + 0.02], [height, height], color=MUTED, linewidth=1)
        axes.annotate(
            label,
            (place, height),
            (4, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    axes.text(place, -0.05, name, ha="center", va="top", fontsize=9, color=INK)
    axes.text(
        place, 1.07, _shown(best), ha="center", va="bottom", fontsize=9, color=ACCENT, weight="bold"
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)
