"""The table of classes: the metrics of every class, with the IoU of other models beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segops.metrics.catalogue import CLASS_METRICS, SPLIT_METRICS, number_at, shown
from segops.metrics.iou import Difference
from segops.report.html import decimal, number, signed
from segops.report.overlay import legend
from segops.report.page_inputs import Opponent
from segops.report.svg import limit, outcome, whisker, words
from segops.runtime.classes import Classes

Cell = dict[str, Any]

SPAN = "\u2212{0:g} to +{0:g}"


def class_table(
    evaluation: Mapping[str, Any],
    opponents: Sequence[Opponent] = (),
    classes: Classes | None = None,
) -> dict[str, Any]:
    """The table as the template draws it.

    Args:
        evaluation: As ``metrics/evaluation.json`` holds it; keys of newer releases may be missing.
        opponents: Models to show beside it; each gets a group of two columns.
        classes: The classes with their colours; None: VOC's colours.

    Returns:
        `groups` (names over the columns of opponents), `columns`, `rows` (present classes in id
        order, then those without true pixels; `key` is that of the images where a class is wrong)
        and `means`, the last row.
    """
    classes = classes or Classes(tuple(evaluation["classes"]))
    extents = [limit([one.miou, *one.classes.values()]) for one in opponents]
    rows = [
        {
            **entry,
            "key": f"iou-{label}",
            "absent": not number_at(figures, "truth_pixels"),
            "cells": _cells(name, figures, opponents, extents),
        }
        for label, ((name, figures), entry) in enumerate(
            zip(
                evaluation["classes"].items(),
                legend(range(len(evaluation["classes"])), classes),
                strict=True,
            )
        )
    ]
    return {
        "groups": [one.name for one in opponents],
        "columns": _columns(opponents, extents),
        "rows": sorted(rows, key=lambda row: bool(row["absent"])),
        "means": _means(evaluation, opponents, extents),
    }


def _columns(opponents: Sequence[Opponent], extents: Sequence[float]) -> list[dict[str, Any]]:
    iou, *others = shown(CLASS_METRICS, "page")
    columns = [_column("class", "class", "", False), _column(iou.name, iou.label, iou.explanation)]
    for index, (one, extent) in enumerate(zip(opponents, extents, strict=True), 1):
        text = f"this model minus {one.name}; whiskers span {SPAN.format(extent)}"
        columns.append(_column(f"iou{index}", "IoU", f"IoU of {one.name}", group=index))
        columns.append(_column(f"difference{index}", "difference", text, group=index))
    return columns + [_column(one.name, one.label, one.explanation) for one in others]


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
    cells = [_bar(number_at(figures, "iou"))]
    for one, extent in zip(opponents, extents, strict=True):
        theirs = one.evaluation.get("classes", {}).get(name, {})
        cells.append(_plain(number_at(theirs, "iou"), 3))
        cells.append(_difference(one.classes.get(name), one.confidence, extent))
    others = shown(CLASS_METRICS, "page")[1:]
    return cells + [_plain(one.read(figures), one.digits) for one in others]


def _means(
    evaluation: Mapping[str, Any], opponents: Sequence[Opponent], extents: Sequence[float]
) -> list[Cell]:
    cells = [_bar(number_at(evaluation, "miou"))]
    for one, extent in zip(opponents, extents, strict=True):
        cells.append(_plain(number_at(one.evaluation, "miou"), 3))
        cells.append(_difference(one.miou, one.confidence, extent))
    means = {metric.name: metric for metric in SPLIT_METRICS}
    for metric in shown(CLASS_METRICS, "page")[1:]:
        mean = means.get(metric.mean)
        text = "" if mean is None else decimal(mean.read(evaluation), mean.digits or 0)
        cells.append({"kind": "plain", "value": None, "text": text})
    return cells


def _bar(value: float | None) -> Cell:
    return {"kind": "bar", "value": value, "text": decimal(value)}


def _plain(value: float | None, digits: int | None) -> Cell:
    text = number(value) if digits is None else decimal(value, digits)
    return {"kind": "plain", "value": value, "text": text}


def _difference(one: Difference | None, confidence: float, extent: float) -> Cell:
    one = one or Difference(math.nan, math.nan, math.nan)
    value = None if math.isnan(one.difference) else one.difference
    return {
        "kind": "difference",
        "value": value,
        "text": signed(value),
        "outcome": outcome(one),
        "drawing": whisker(one, extent, words(one, confidence)),
    }
