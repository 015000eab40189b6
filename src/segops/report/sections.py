"""What sections of the evaluation page show: the head, kinds of error, confusions and slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segops.metrics.catalogue import SPLIT_METRICS, number_at, shown
from segops.report import overlay
from segops.report.figures import level
from segops.report.html import NARROW
from segops.report.overlay import ERROR_KINDS, legend
from segops.report.page_inputs import Opponent
from segops.report.svg import limit, outcome, whisker, words
from segops.runtime.classes import Classes
from segops.words import counted

OUTCOMES = {"better": "better", "worse": "worse", "even": "not told apart"}
UNION_PARTS = (
    ("right", "iou", "the IoU"),
    ("boundary", "boundary_error", "wrong along a contour that was found and lies a little off"),
    ("extent", "extent_error", "wrong elsewhere in a segment that was found: too small, too large"),
    ("segment", "segment_error", "in a segment that was missed or invented as a whole"),
)
"""What the union of a class consists of: name, key of its share in an evaluation, meaning."""


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
            "figures": words(one.miou, one.confidence),
            "sentence": _sentence(one),
            "remark": _remark(one, number_at(evaluation, "images")),
            "drawing": whisker(one.miou, extent, words(one.miou, one.confidence)),
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


def error_kinds(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent]
) -> dict[str, Any] | None:
    """Pixels of each kind of error and their shares; None where the evaluation counts no kinds.

    Kinds of another background than this evaluation's are not shown beside it.
    """
    wrong = _wrong(evaluation)
    if wrong is None:
        return None
    total = sum(wrong.values())
    background = background_of(evaluation)
    numbers = {kind.name: index for index, kind in enumerate(ERROR_KINDS)}
    others = [
        (_wrong(one.evaluation) if background_of(one.evaluation) == background else None,
         one.evaluation)
        for one in opponents
    ]  # fmt: skip
    return {
        "pixels": total,
        "share": _over_labelled(total, evaluation),
        "rows": [
            {
                "name": kind.name,
                "key": f"kind-{numbers[kind.name]}",
                "colour": kind.colour,
                "meaning": kind.meaning,
                "pixels": wrong[kind.name],
                "of_errors": wrong[kind.name] / total if total else None,
                "of_pixels": _over_labelled(wrong[kind.name], evaluation),
                "others": [
                    None if theirs is None else _over_labelled(theirs[kind.name], other)
                    for theirs, other in others
                ],
            }
            for kind in overlay.error_kinds(background)
        ],
    }


def union_errors(evaluation: Mapping[str, Any], classes: Classes) -> list[dict[str, Any]]:
    """The classes in the truth with the parts of their unions, each 0..1: they add up to 1.

    Empty where the evaluation does not tell, as one of an older release.
    """
    entries = legend(range(len(classes.names)), classes)
    rows = []
    for label, entry in enumerate(entries):
        figures = evaluation["classes"].get(entry["name"], {})
        parts = [
            {
                "name": name,
                "share": number_at(figures, key),
                "meaning": meaning,
                "label": f"{name} {'errors' if kind >= 0 else 'pixels'} of {entry['name']}",
                "key": f"cell-{label}-{label}" if kind < 0 else f"union-{label}-{kind}",
            }
            for kind, (name, key, meaning) in enumerate(UNION_PARTS, -1)
        ]
        if number_at(figures, "truth_pixels") and all(one["share"] is not None for one in parts):
            rows.append({**entry, "parts": parts})
    return rows


def confusions(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs of classes in words, most pixels first, with the length of each pair's bar."""
    pairs = evaluation.get("confusions") or []
    ids = {name: label for label, name in enumerate(evaluation["classes"])}
    most = max((pair["pixels"] for pair in pairs), default=1)
    return [
        {
            **pair,
            "length": pair["pixels"] / max(most, 1),
            "key": f"cell-{ids[pair['truth']]}-{ids[pair['predicted']]}",
        }
        for pair in sorted(pairs, key=lambda pair: -int(pair["pixels"]))
        if pair["pixels"]
    ]


def slices(evaluation: Mapping[str, Any], opponents: Sequence[Opponent]) -> list[dict[str, Any]]:
    """Rows of the table of slices; the first of a group names it.

    Slices of another background than this evaluation's hold other objects and are not shown.
    """
    own = background_of(evaluation)
    theirs = [
        _by_name(one.evaluation) if background_of(one.evaluation) == own else {}
        for one in opponents
    ]
    rows, last = [], None
    for index, one in enumerate(evaluation.get("slices") or []):
        group, name = one.get("group"), one.get("name")
        figures = (
            "objects", "images", "pixels", "recall", "found", "miou", "miou_low", "miou_high",
        )  # fmt: skip
        rows.append(
            {
                "first": group != last,
                "group": group,
                "name": name,
                "key": f"slice-{index}",
                "definition": one.get("definition", ""),
                **{figure: number_at(one, figure) for figure in figures},
                "others": [number_at(other.get((group, name), {}), "recall") for other in theirs],
            }
        )
        last = group
    return rows


def _by_name(evaluation: Mapping[str, Any]) -> dict[tuple[Any, Any], Mapping[str, Any]]:
    return {(one.get("group"), one.get("name")): one for one in evaluation.get("slices") or []}


def background_of(evaluation: Mapping[str, Any]) -> str | None:
    """The class that the errors of an evaluation take for background; None: none.

    Evaluations of older releases do not say: it was the first class.
    """
    name: str | None = evaluation.get("background", next(iter(evaluation.get("classes", ())), None))
    return name


def _wrong(evaluation: Mapping[str, Any]) -> dict[str, int] | None:
    errors = evaluation.get("errors")
    if not isinstance(errors, Mapping):
        return None
    return {kind.name: int(errors.get(kind.name) or 0) for kind in ERROR_KINDS}


def _over_labelled(pixels: int, evaluation: Mapping[str, Any]) -> float | None:
    classes = evaluation.get("classes", {}).values()
    labelled = sum(int(number_at(one, "truth_pixels") or 0) for one in classes)
    return pixels / labelled if labelled else None
