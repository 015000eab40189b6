"""Learning curves, from the file that training writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from segops.report import svg

CURVES = (
    ("train_loss", "Training loss", "train"),
    ("selection_miou", "mIoU on the selection split", "val"),
    ("lr", "Learning rate", "train"),
)


def learning_curves(path: Path | None) -> list[dict[str, Any]]:
    """A chart for every column that the file holds.

    Args:
        path: The CSV of training; None or a missing file gives no curves.
    """
    if path is None or not path.exists():
        return []
    table = pd.read_csv(path)
    curves = []
    for column, title, name in CURVES:
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
