"""The reliability diagram: accuracy by confidence.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from segops.metrics.catalogue import number_at
from segops.report import svg
from segops.report.html import decimal, number, percent
from segops.report.page_inputs import Opponent
from segops.report.svg import LEFT, RIGHT, TOP, WIDTH, Axis

HEIGHT = 440
PLOT_END, COUNT_START, COUNT_END = 302, 318, 394
LEAST = 1e-4
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def reliability(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent], linked: Collection[str] = ()
) -> dict[str, Any] | None:
    """The diagram, its bins and a sentence; None where the evaluation has no calibration.

    `linked` are the keys of the bins whose images the page can show.
    """
    calibration = evaluation.get("calibration")
    if not isinstance(calibration, Mapping) or not calibration.get("bins"):
        return None
    bins = [_bin(one) | {"key": f"bin-{i}"} for i, one in enumerate(calibration["bins"])]
    pixels = sum(one["pixels"] for one in bins)
    for one in bins:
        one["share"] = one["pixels"] / pixels if pixels else 0.0
    error = number_at(calibration, "expected_calibration_error")
    path = "calibration.expected_calibration_error"
    return {
        "chart": _chart(bins, linked),
        "bins": bins,
        "error": error,
        "sentence": _sentence(calibration, bins),
        "others": [(one.name, number_at(one.evaluation, path)) for one in opponents],
    }


def _bin(one: Mapping[str, Any]) -> dict[str, Any]:
    confidence, accuracy = number_at(one, "confidence"), number_at(one, "accuracy")
    gap = None if confidence is None or accuracy is None else accuracy - confidence
    return {
        "low": float(one["low"]),
        "high": float(one["high"]),
        "pixels": int(one.get("pixels") or 0),
        "confidence": confidence,
        "accuracy": accuracy,
        "gap": gap,
    }


def _sentence(calibration: Mapping[str, Any], bins: Sequence[Mapping[str, Any]]) -> str:
    known = [one for one in bins if one["accuracy"] is not None]
    pixels = sum(one["pixels"] for one in known)
    confidence = number_at(calibration, "confidence")
    if not pixels or confidence is None:
        return ""
    accuracy = sum(one["accuracy"] * one["pixels"] for one in known) / pixels
    lead = "Confidence matches accuracy"
    if confidence - accuracy > 0.005:
        lead = "The model is overconfident"
    elif accuracy - confidence > 0.005:
        lead = "The model is underconfident"
    return f"{lead}: mean confidence {decimal(confidence)}, accuracy {decimal(accuracy)}."


def _chart(bins: Sequence[Mapping[str, Any]], linked: Collection[str]) -> Markup:
    x = Axis(0, 1, LEFT, WIDTH - RIGHT)
    y = Axis(0, 1, PLOT_END, TOP)
    count = Axis(math.log10(LEAST), 0, COUNT_END, COUNT_START)
    parts = _frame(x, y, count)
    for one in bins:
        if not one["pixels"]:
            continue
        left, width = x(one["low"]) + 0.75, x(one["high"]) - x(one["low"]) - 1.5
        top = count(max(math.log10(max(one["share"], LEAST)), math.log10(LEAST)))
        drawn = [f"<g><title>{_title(one)}</title>"]
        drawn.append(_box("train", left, width, top, COUNT_END + 2))
        if one["gap"] is not None:
            accuracy, confidence = y(one["accuracy"]), y(one["confidence"])
            drawn.append(_box("train", left, width, accuracy, PLOT_END))
            kind = "gap over" if one["gap"] < 0 else "gap under"
            drawn.append(
                _box(kind, left, width, min(accuracy, confidence), max(accuracy, confidence))
            )
        drawn.append("</g>")
        bar = "".join(drawn)
        text = f"wrong with a confidence of {one['low']:.2f} to {one['high']:.2f}"
        parts.append(svg.link(one["key"], text, bar) if one["key"] in linked else bar)
    parts.append(f'<line class="diagonal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    return Markup(
        f'<svg class="chart reliability" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="{"group" if linked else "img"}" '
        f'aria-label="Reliability diagram">{"".join(parts)}</svg>'
    )


def _frame(x: Axis, y: Axis, count: Axis) -> list[str]:
    parts = []
    for tick in TICKS:
        parts += [*svg.rule(y(tick), f"{tick:g}"), svg.below(x(tick), COUNT_END + 19, f"{tick:g}")]
    for power, text in ((-4, "0.01%"), (-2, "1%"), (0, "100%")):
        parts += svg.rule(count(power), text)
    parts.append(svg.below((LEFT + WIDTH - RIGHT) // 2, HEIGHT - 6, "confidence", "axis-label"))
    parts.append(svg.beside((TOP + PLOT_END) / 2, "accuracy", 11))
    return [*parts, svg.beside((COUNT_START + COUNT_END) / 2, "pixels", 11)]


def _box(kind: str, left: float, width: float, top: float, bottom: float) -> str:
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{max(bottom - top, 0):.1f}"/>'
    )


def _title(one: Mapping[str, Any]) -> str:
    return (
        f"confidence {one['low']:.2f} to {one['high']:.2f}: {number(one['pixels'])} pixels "
        f"({percent(one['share'])}), mean confidence {decimal(one['confidence'])}, "
        f"accuracy {decimal(one['accuracy'])}"
    )
