"""The head of the evaluation page: metrics, mIoU's interval, and the comparison with others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segops.metrics.catalogue import SPLIT_METRICS, number_at, shown
from segops.report.figures import level
from segops.report.html import NARROW
from segops.report.page_inputs import Opponent
from segops.report.svg import limit, outcome, whisker, words
from segops.words import counted

OUTCOMES = {"better": "better", "worse": "worse", "even": "not told apart"}


def interval(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> dict[str, Any] | None:
    """Where the interval of mIoU and the other models' points lie on a scale from 0 to 100."""
    low, high, point = (number_at(evaluation, key) for key in ("miou_low", "miou_high", "miou"))
    if low is None or high is None or point is None:
        return None
    others = [(one.name, number_at(one.evaluation, "miou")) for one in opponents]
    return {
        "level": level(evaluation["confidence"], NARROW),
        "left": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "point": round(100 * point, 2),
        "others": [
            {"name": name, "place": round(100 * value, 2)}
            for name, value in others
            if value is not None
        ],
    }


def verdicts(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> list[dict[str, Any]]:
    """What the page says of each opponent: its mIoU, the difference in words and as a drawing."""
    extent = limit([one.miou for one in opponents])
    return [
        {
            "name": one.name,
            "miou": number_at(one.evaluation, "miou"),
            "outcome": outcome(one.miou),
            "figures": "no difference" if _unknown(one) else words(one.miou, one.confidence),
            "sentence": _sentence(one),
            "remark": _remark(one, number_at(evaluation, "images")),
            "drawing": ""
            if _unknown(one)
            else whisker(one.miou, extent, words(one.miou, one.confidence)),
        }
        for one in opponents
    ]


def tiles(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> list[dict[str, Any]]:
    """The metrics beside mIoU, each with the other models' values."""
    return [
        {
            "label": metric.label,
            "text": metric.explanation + ("; lower is better" if metric.lower_is_better else ""),
            "value": metric.text(evaluation),
            "others": [
                (one.name, metric.text(one.evaluation))
                for one in opponents
                if metric.read(one.evaluation) is not None
            ],
        }
        for metric in shown(SPLIT_METRICS, "page")
    ]


def _unknown(one: Opponent) -> bool:
    return math.isnan(one.miou.difference)


def _sentence(one: Opponent) -> str:
    images = counted(one.images, "image")
    if math.isnan(one.miou.low):
        return f"too few to tell apart, {images}"
    return f"{OUTCOMES[outcome(one.miou)]} on {images}"


def _remark(one: Opponent, scored: float | None) -> str:
    if not one.excluded:
        return ""
    images = counted(one.excluded, "image")
    if scored is not None and scored > one.images:
        return (
            f"Left out of the difference: {images} that one of the two was trained on. Each "
            f"model's own mIoU is over all {scored:g}."
        )
    return f"Left out throughout: {images} of the split that one of the models was trained on."
