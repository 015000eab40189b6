"""The table of classes: every figure of every class, beside other models'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segops.report.figures import figure
from segops.report.html import decimal, number, signed
from segops.report.legend import legend
from segops.report.page_inputs import Difference, Opponent
from segops.report.whisker import known, limit, outcome, whisker, words

Cell = dict[str, Any]

IOU = "intersection of truth and prediction over their union"
SPAN = "\u2212{0:g} to +{0:g}"

# Key in the evaluation's classes, heading, digits (None: a count), key of the mean, explanation.
FIGURES: tuple[tuple[str, str, int | None, str | None, str], ...] = (
    ("boundary_iou", "boundary IoU", 3, "boundary.iou",
     "IoU of the inner bands along the contours of truth and prediction"),
    ("boundary_f1", "boundary F1", 3, "boundary.f1",
     "harmonic mean of the shares of predicted and true contour that lie near each other"),
    ("contour_distance", "contour distance", 1, "boundary.contour_distance",
     "mean distance between the contours of truth and prediction, both ways, in pixels"),
    ("precision", "precision", 3, "mean_precision", "share of the predicted pixels that are right"),
    ("recall", "recall", 3, "mean_recall", "share of the true pixels that are found"),
    ("f1", "F1", 3, "mean_f1", "harmonic mean of precision and recall"),
    ("truth_pixels", "true pixels", None, None, "pixels of the class in the ground truth"),
    ("predicted_pixels", "predicted pixels", None, None,
     "pixels predicted as the class, where the ground truth is not void"),
)  # fmt: skip


def class_table(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent] = ()
) -> dict[str, Any]:
    """The table as the template draws it.

    Args:
        evaluation: As ``metrics/evaluation.json`` holds it; keys of newer releases may be missing.
        opponents: Models to show beside it; each gets a group of two columns.

    Returns:
        `groups` (names over the columns of opponents), `columns`, `rows` (present classes in id
        order, then those without true pixels) and `means`, the last row.
    """
    extents = [limit([one.miou, *one.classes.values()]) for one in opponents]
    rows = [
        {
            **entry,
            "absent": not figure(figures, "truth_pixels"),
            "cells": _cells(name, figures, opponents, extents),
        }
        for (name, figures), entry in zip(
            evaluation["classes"].items(),
            legend(range(len(evaluation["classes"])), list(evaluation["classes"])),
            strict=True,
        )
    ]
    return {
        "groups": [one.name for one in opponents],
        "columns": _columns(opponents, extents),
        "rows": sorted(rows, key=lambda row: bool(row["absent"])),
        "means": _means(evaluation, opponents, extents),
    }


def _columns(opponents: Sequence[Opponent], extents: Sequence[float]) -> list[dict[str, Any]]:
    columns = [_column("class", "class", "", False), _column("iou", "IoU", IOU)]
    for index, (one, extent) in enumerate(zip(opponents, extents, strict=True), 1):
        text = f"this model minus {one.name}; whiskers span {SPAN.format(extent)}"
        columns.append(_column(f"iou{index}", "IoU", f"IoU of {one.name}", group=index))
        columns.append(_column(f"difference{index}", "difference", text, group=index))
    return columns + [_column(key, label, text) for key, label, _, _, text in FIGURES]


def _column(
    key: str, label: str, text: str, numeric: bool = True, group: int = 0
) -> dict[str, Any]:
    return {"key": key, "label": label, "text": text, "numeric": numeric, "group": group}


def _cells(
    name: str,
    figures: Mapping[str, Any],
    opponents: Sequence[Opponent],
    extents: Sequence[float],
) -> list[Cell]:
    cells = [_bar(figure(figures, "iou"))]
    for one, extent in zip(opponents, extents, strict=True):
        theirs = one.evaluation.get("classes", {}).get(name, {})
        cells.append(_plain(figure(theirs, "iou"), 3))
        cells.append(_difference(one.classes.get(name), one.confidence, extent))
    return cells + [_plain(figure(figures, key), digits) for key, _, digits, _, _ in FIGURES]


def _means(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent], extents: Sequence[float]
) -> list[Cell]:
    cells = [_bar(figure(evaluation, "miou"))]
    for one, extent in zip(opponents, extents, strict=True):
        cells.append(_plain(figure(one.evaluation, "miou"), 3))
        cells.append(_difference(one.miou, one.confidence, extent))
    for _, _, digits, mean, _ in FIGURES:
        text = "" if mean is None else decimal(figure(evaluation, mean), digits or 0)
        cells.append({"kind": "plain", "value": None, "text": text})
    return cells


def _bar(value: float | None) -> Cell:
    return {"kind": "bar", "value": value, "text": decimal(value)}


def _plain(value: float | None, digits: int | None) -> Cell:
    text = number(value) if digits is None else decimal(value, digits)
    return {"kind": "plain", "value": value, "text": text}


def _difference(one: Difference | None, confidence: float, extent: float) -> Cell:
    if one is None or not known(one):
        return {**_plain(None, 3), "kind": "difference", "outcome": "even", "drawing": ""}
    return {
        "kind": "difference",
        "value": one.difference,
        "text": signed(one.difference),
        "outcome": outcome(one),
        "drawing": whisker(one, extent, words(one, confidence)),
    }
