"""The head of the evaluation page: how good, how surely, and against whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segops.report.figures import figure, level
from segops.report.html import NARROW, decimal
from segops.report.page_inputs import Opponent
from segops.report.whisker import bounds, known, limit, outcome, whisker, words
from segops.words import counted

# Label, dotted path in the evaluation, digits, unit, explanation.
TILES = (
    ("boundary IoU", "boundary.iou", 3, "",
     "IoU of the bands along the contours of truth and prediction, mean over classes"),
    ("boundary F1", "boundary.f1", 3, "",
     "contours that lie within a tolerance of each other, mean over classes"),
    ("mean contour distance", "boundary.contour_distance", 1, "px",
     "between the contours of truth and prediction, both ways"),
    (f"95{NARROW}% Hausdorff distance", "boundary.hausdorff95", 1, "px",
     "95 % of the contour points are nearer than this, mean over images and classes"),
    ("expected calibration error", "calibration.expected_calibration_error", 3, "",
     "mean gap between confidence and accuracy"),
    ("pixel accuracy", "pixel_accuracy", 3, "", "share of the labelled pixels predicted right"),
    ("mean class accuracy", "mean_class_accuracy", 3, "", "recall, mean over classes"),
    ("frequency-weighted IoU", "frequency_weighted_iou", 3, "",
     "IoU, classes weighted by their true pixels"),
    ("mean precision", "mean_precision", 3, "", "precision, mean over classes"),
    ("mean F1", "mean_f1", 3, "", "F1, mean over classes"),
)  # fmt: skip
OUTCOMES = {"better": "better", "worse": "worse", "even": "not told apart"}


def interval(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> dict[str, Any] | None:
    """Where the interval of mIoU and the other models' points lie on a scale from 0 to 100."""
    low, high, point = (figure(evaluation, key) for key in ("miou_low", "miou_high", "miou"))
    if low is None or high is None or point is None:
        return None
    others = [(one.name, figure(one.evaluation, "miou")) for one in opponents]
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
            "miou": figure(one.evaluation, "miou"),
            "outcome": outcome(one.miou),
            "figures": words(one.miou, one.confidence) if known(one.miou) else "no difference",
            "sentence": _sentence(one),
            "remark": _remark(one, figure(evaluation, "images")),
            "drawing": whisker(one.miou, extent, words(one.miou, one.confidence))
            if known(one.miou)
            else "",
        }
        for one in opponents
    ]


def tiles(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> list[dict[str, Any]]:
    """The figures beside mIoU, each with the other models' values."""
    return [
        {
            "label": label,
            "text": text,
            "value": _value(evaluation, path, digits, unit),
            "others": [
                (one.name, _value(one.evaluation, path, digits, unit))
                for one in opponents
                if figure(one.evaluation, path) is not None
            ],
        }
        for label, path, digits, unit, text in TILES
    ]


def _value(evaluation: Mapping[str, Any], path: str, digits: int, unit: str) -> str:
    value = figure(evaluation, path)
    text = decimal(value, digits)
    return f"{text}{NARROW}{unit}" if unit and value is not None else text


def _sentence(one: Opponent) -> str:
    images = counted(one.images, "image")
    if not known(one.miou) or bounds(one.miou) is None:
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
