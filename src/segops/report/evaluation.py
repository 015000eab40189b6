"""The page that shows how good a model is, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.report import svg
from segops.report.confusion import occurring, row_shares
from segops.report.html import photograph, write_page
from segops.report.legend import legend
from segops.report.overlay import Picture, overlay, present

PICTURE_WIDTH = 480
GROUPS = {"best": "Best images", "median": "Median images", "worst": "Worst images"}
LINEAGE = {
    "weights_sha256": "weights",
    "bundle_digest": "bundle",
    "data_hash": "data",
    "val_hash": "val",
}


def write_evaluation_page(
    path: Path,
    evaluation: Mapping[str, Any],
    confusion: NDArray[np.int64],
    pictures: Sequence[Picture],
    learning_curves: Path | None,
) -> None:
    """Write the page; the same inputs give the same bytes.

    Args:
        path: The HTML file.
        evaluation: As ``metrics/evaluation.json`` holds it; `classes` in id order.
        confusion: int64 (C, C), pixels; rows are true classes, columns predicted ones.
        pictures: Images to show; none where photographs are private.
        learning_curves: The CSV of training; None or a missing file leaves the curves out.

    Raises:
        ValueError: `confusion` and the classes of `evaluation` differ in number.
    """
    names = list(evaluation["classes"])
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"confusion matrix {confusion.shape} for {len(names)} classes")
    shown = occurring(confusion)
    write_page(
        path,
        "evaluation.html",
        e=evaluation,
        interval=_interval(evaluation),
        in_truth=int((confusion.sum(axis=1) > 0).sum()),
        classes=_class_rows(evaluation["classes"]),
        confusion=svg.heat_map(
            row_shares(confusion)[np.ix_(shown, shown)], [names[index] for index in shown]
        ),
        curves=_curves(learning_curves),
        groups=_groups(pictures),
        colours=legend(
            present(mask for one in pictures for mask in (one.truth, one.prediction)), names
        ),
        lineage=[(label, evaluation[key]) for key, label in LINEAGE.items() if key in evaluation],
    )


def _interval(evaluation: Mapping[str, Any]) -> dict[str, float] | None:
    low, high = evaluation["miou_low"], evaluation["miou_high"]
    if low is None or high is None or evaluation["miou"] is None:
        return None
    return {
        "left": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "point": round(100 * evaluation["miou"], 2),
    }


def _class_rows(classes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    entries = legend(range(len(classes)), list(classes))
    return [
        entry | dict(figures) | {"absent": figures["iou"] is None}
        for entry, figures in zip(entries, classes.values(), strict=True)
    ]


def _curves(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    table = pd.read_csv(path)
    curves = []
    for column, title, name in (
        ("train_loss", "Training loss", "train"),
        ("selection_miou", "mIoU on the selection split", "val"),
        ("lr", "Learning rate", "train"),
    ):
        known = table.dropna(subset=[column]) if column in table else table.head(0)
        if known.empty:
            continue
        points = [
            (float(epoch), float(value))
            for epoch, value in zip(known["epoch"], known[column], strict=True)
        ]
        selects = column == "selection_miou"
        best = max(points, key=lambda point: point[1]) if selects else None
        text = ""
        if best is not None:
            text = (
                f"Best: {best[1]:.3f} in epoch {best[0]:g}, whose weights were kept. "
                "The split is held out from train."
            )
        curves.append(
            {
                "title": title,
                "chart": svg.line(points, title, name, best, unit=selects),
                "text": text,
            }
        )
    return curves


def _groups(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    groups = []
    for group, title in GROUPS.items():
        members = [
            {
                "image_id": one.image_id,
                "score": one.score,
                "image": photograph(one.image, PICTURE_WIDTH),
                "truth": photograph(overlay(one.image, one.truth), PICTURE_WIDTH),
                "prediction": photograph(overlay(one.image, one.prediction), PICTURE_WIDTH),
            }
            for one in pictures
            if one.group == group
        ]
        if members:
            groups.append({"title": title, "pictures": members})
    return groups
