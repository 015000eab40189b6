"""Plots as PNG files, for places that show pictures and no pages (MLflow's artifacts)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segops.files import atomic_path
from segops.report.confusion import occurring, row_shares

INK, MUTED, LINE, ACCENT = "#161a20", "#59626f", "#dfe3e8", "#2159c9"


def write_confusion_png(
    path: Path, confusion: NDArray[np.int64], class_names: Sequence[str]
) -> None:
    """Draw the row-normalised confusion matrix of the classes that occur.

    Args:
        path: The PNG file.
        confusion: int64 (C, C), pixels; rows are true classes, columns predicted ones.
        class_names: C names in id order.
    """
    shown = occurring(confusion)
    shares = row_shares(confusion)[np.ix_(shown, shown)]
    names = [class_names[index] for index in shown]
    side = max(3.5, 0.42 * len(names))
    figure, axes = _figure(side + 1.9, side + 1.5)
    # The square root lets small confusions show.
    axes.imshow(np.sqrt(np.nan_to_num(shares)), cmap="Blues", vmin=0, vmax=1.15)
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        if share >= 0.005:
            axes.text(
                column,
                row,
                f"{share * 100:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if np.sqrt(share) > 0.6 else INK,
            )
    places = np.arange(len(names))
    axes.set_xticks(places, names, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(places, names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(places - 0.5, minor=True)
    axes.set_yticks(places - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0, labelsize=9, colors=INK)
    axes.set_xlabel("predicted", color=MUTED)
    axes.set_ylabel("true (each row sums to 100 %)", color=MUTED)
    _save(figure, path)


def write_class_iou_png(
    path: Path, ious: Sequence[float | None], class_names: Sequence[str], miou: float | None
) -> None:
    """Draw a bar for the IoU of every class; absent classes are named and left empty.

    Args:
        path: The PNG file.
        ious: C values in [0, 1]; None (or NaN) where the class is absent.
        class_names: C names in id order.
        miou: A line to draw across the bars; None: no line.
    """
    values = np.array([np.nan if iou is None else iou for iou in ious], dtype=np.float64)
    places = np.arange(len(class_names))
    figure, axes = _figure(7.2, 0.8 + 0.3 * len(class_names))
    axes.barh(
        places,
        np.nan_to_num(values),
        height=0.68,
        color=ACCENT,
    )
    for place, value in zip(places, values, strict=True):
        absent = np.isnan(value)
        axes.text(
            (0 if absent else value) + 0.012,
            place,
            "absent" if absent else f"{value:.3f}",
            va="center",
            fontsize=9,
            color=MUTED if absent else INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    if miou is not None:
        axes.axvline(miou, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
        axes.text(miou, -0.75, f"mIoU {miou:.3f}", ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_yticks(places, class_names)
    axes.set_ylim(len(class_names) - 0.4, -0.7)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("IoU", color=MUTED)
    axes.grid(axis="x", color=LINE)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    # No pyplot: it keeps figures in global state and picks a backend of the machine's.
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        # Without a software tag the bytes depend on the plot alone.
        figure.savefig(temporary, format="png", dpi=144, metadata={"Software": None})
