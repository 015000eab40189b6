"""The metrics: how each is named, computed, shown and recorded.

A metric is a row of :data:`SPLIT_METRICS` or :data:`CLASS_METRICS`. ``metrics/evaluation.json``,
the tables of the evaluation page and of the command line, and the metrics of an MLflow run follow
from the rows, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from segops.metrics.counts import (
    BAND,
    TOLERANCE,
    BoundaryCounts,
    CalibrationCounts,
    SplitCounts,
    UnionErrorCounts,
)
from segops.metrics.iou import (
    f1,
    frequency_weighted_iou,
    iou,
    miou,
    miou_truth_or_prediction,
    pixel_accuracy,
    precision,
    recall,
    truth_mean,
)

Place = Literal["page", "terminal", "mlflow"]
EVERYWHERE: tuple[Place, ...] = ("page", "terminal", "mlflow")


@dataclass(frozen=True)
class Metric:
    """A row of the catalogue.

    Attributes:
        name: Its name in MLflow; of a metric of classes, the key in the evaluation as well.
        label: What people read.
        explanation: What it measures, in a few words.
        compute: A function of the counts that `source` names: a number, or an array of shape (C,).
        source: A field of :class:`segops.metrics.counts.SplitCounts`.
        averaged: Of a metric of the split: `compute` gives a value a class, and the metric is their
            mean over the classes in the truth.
        path: Of a metric of the split: where it stands in the evaluation, keys joined by dots;
            empty: under its name.
        mean: Of a metric of classes: the name of the metric of the split that is its mean.
        digits: Decimals to show; None for a number of pixels.
        unit: Unit to show.
        lower_is_better: Whether a smaller value is better.
        places: Where it is shown and recorded beside the evaluation.
    """

    name: str
    label: str
    explanation: str
    compute: Callable[[Any], Any]
    source: Literal["pixels", "boundary", "calibration", "union_errors"] = "pixels"
    averaged: bool = False
    path: str = ""
    mean: str = ""
    digits: int | None = 3
    unit: str = ""
    lower_is_better: bool = False
    places: tuple[Place, ...] = EVERYWHERE

    @property
    def keys(self) -> list[str]:
        """Where it stands in an evaluation, or in the part of it that is of one class."""
        return (self.path or self.name).split(".")

    def value(self, counts: SplitCounts) -> Any:
        """The number, or the array of shape (C,); None where the counts do not tell."""
        source = getattr(counts, self.source)
        if source is None:
            return None
        value = self.compute(source)
        return truth_mean(value, counts.pixels) if self.averaged else value

    def read(self, tree: Mapping[str, Any]) -> float | None:
        """Its value in an evaluation, or in one class of it; None where missing or undefined."""
        return number_at(tree, self.path or self.name)

    def text(self, tree: Mapping[str, Any]) -> str:
        """Its value in an evaluation with its unit, as people read it."""
        value = self.read(tree)
        if value is None:
            return "–"
        text = f"{value:,.{self.digits or 0}f}".replace(",", "\u202f")
        return f"{text}\u202f{self.unit}" if self.unit else text


def number_at(tree: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path; None where a key is missing or it is no finite number."""
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


SPLIT_METRICS: list[Metric] = [
    Metric(
        "miou", "mIoU", "IoU, mean over the classes in the truth", lambda pixels: miou(*pixels),
        places=("mlflow",),  # page and terminal show it with its interval
    ),
    Metric(
        "miou_truth_or_prediction", "mIoU, classes in truth or prediction",
        "the other convention in use: a stray prediction of an absent class adds a zero",
        miou_truth_or_prediction, places=("terminal", "mlflow"),
    ),
    Metric(
        "boundary_iou", "boundary IoU",
        "IoU of the bands along the contours of truth and prediction, mean over classes",
        BoundaryCounts.iou, "boundary", averaged=True, path="boundary.iou",
    ),
    Metric(
        "boundary_f1", "boundary F1",
        "contours that lie within a tolerance of each other, mean over classes",
        BoundaryCounts.f1, "boundary", averaged=True, path="boundary.f1",
    ),
    Metric(
        "contour_distance", "mean contour distance",
        "between the contours of truth and prediction, both ways",
        BoundaryCounts.contour_distance, "boundary", averaged=True,
        path="boundary.contour_distance", digits=2, unit="px", lower_is_better=True,
    ),
    Metric(
        "hausdorff95", "95\u202f% Hausdorff distance",
        "95 % of the contour points are nearer than this, mean over images and classes",
        BoundaryCounts.hausdorff95, "boundary", averaged=True,
        path="boundary.hausdorff95", digits=2, unit="px", lower_is_better=True,
    ),
    Metric(
        "boundary_error", "boundary error",
        "wrong pixels along a contour that lies a little off, over the union, mean over classes",
        UnionErrorCounts.boundary_error, "union_errors", averaged=True,
        path="union_errors.boundary", lower_is_better=True, places=("mlflow",),
    ),
    Metric(
        "extent_error", "extent error",
        "other wrong pixels of segments that were found, over the union, mean over classes",
        UnionErrorCounts.extent_error, "union_errors", averaged=True,
        path="union_errors.extent", lower_is_better=True, places=("mlflow",),
    ),
    Metric(
        "segment_error", "segment error",
        "pixels of segments missed or invented, over the union, mean over classes",
        UnionErrorCounts.segment_error, "union_errors", averaged=True,
        path="union_errors.segment", lower_is_better=True, places=("mlflow",),
    ),
    Metric(
        "expected_calibration_error", "expected calibration error",
        "mean gap between confidence and accuracy", CalibrationCounts.error, "calibration",
        path="calibration.expected_calibration_error", lower_is_better=True,
    ),
    Metric(
        "pixel_accuracy", "pixel accuracy", "share of the labelled pixels predicted right",
        pixel_accuracy,
    ),
    Metric(
        "mean_class_accuracy", "mean class accuracy", "recall, mean over classes", recall,
        averaged=True,
    ),
    Metric(
        "frequency_weighted_iou", "frequency-weighted IoU",
        "IoU, classes weighted by their true pixels", frequency_weighted_iou,
    ),
    Metric(
        "mean_precision", "mean precision", "precision, mean over classes", precision,
        averaged=True,
    ),
    Metric(
        "mean_recall", "mean recall", "the same as mean class accuracy", recall,
        averaged=True, places=("mlflow",),
    ),
    Metric("mean_f1", "mean F1", "F1, mean over classes", f1, averaged=True),
]  # fmt: skip
CLASS_METRICS: list[Metric] = [
    Metric(
        "iou", "IoU", "intersection of truth and prediction over their union",
        lambda pixels: iou(*pixels), mean="miou",
    ),
    Metric(
        "boundary_iou", "boundary IoU",
        "IoU of the inner bands along the contours of truth and prediction",
        BoundaryCounts.iou, "boundary", mean="boundary_iou",
    ),
    Metric(
        "boundary_f1", "boundary F1",
        "harmonic mean of the shares of predicted and true contour that lie near each other",
        BoundaryCounts.f1, "boundary", mean="boundary_f1", places=("page", "terminal"),
    ),
    Metric(
        "contour_distance", "contour distance",
        "mean distance between the contours of truth and prediction, both ways, in pixels",
        BoundaryCounts.contour_distance, "boundary", mean="contour_distance",
        digits=2, unit="px", lower_is_better=True, places=("page", "terminal"),
    ),
    Metric(
        "hausdorff95", "95\u202f% Hausdorff distance",
        "95 % of the contour points of an image are nearer than this, in pixels, mean over images",
        BoundaryCounts.hausdorff95, "boundary", mean="hausdorff95",
        digits=2, unit="px", lower_is_better=True, places=(),
    ),
    Metric(
        "boundary_error", "boundary error",
        "share of the union that is wrong along a contour that lies a little off",
        UnionErrorCounts.boundary_error, "union_errors", mean="boundary_error",
        lower_is_better=True, places=(),
    ),
    Metric(
        "extent_error", "extent error",
        "share of the union that is wrong elsewhere in segments that were found",
        UnionErrorCounts.extent_error, "union_errors", mean="extent_error",
        lower_is_better=True, places=(),
    ),
    Metric(
        "segment_error", "segment error",
        "share of the union that lies in segments missed or invented",
        UnionErrorCounts.segment_error, "union_errors", mean="segment_error",
        lower_is_better=True, places=(),
    ),
    Metric(
        "precision", "precision", "share of the predicted pixels that are right", precision,
        mean="mean_precision",
    ),
    Metric(
        "recall", "recall", "share of the true pixels that are predicted right", recall,
        mean="mean_recall",
    ),
    Metric(
        "f1", "F1", "harmonic mean of precision and recall", f1, mean="mean_f1",
        places=("page", "mlflow"),
    ),
    Metric(
        "intersection", "right pixels", "pixels of the class that are predicted as the class",
        attrgetter("intersection"), digits=None, places=(),
    ),
    Metric(
        "truth_pixels", "true pixels", "pixels of the class in the ground truth",
        attrgetter("truth"), digits=None, places=("page",),
    ),
    Metric(
        "predicted_pixels", "predicted pixels",
        "pixels predicted as the class, where the ground truth is not void",
        attrgetter("predicted"), digits=None, places=("page",),
    ),
]  # fmt: skip


def shown(metrics: Sequence[Metric], place: Place) -> list[Metric]:
    """The rows that are shown or recorded at a place."""
    return [one for one in metrics if place in one.places]


def compute_metrics(counts: SplitCounts, class_names: Sequence[str]) -> dict[str, Any]:
    """All metrics, ready for JSON; `class_names` are in id order.

    Returns:
        The metrics of the split at their paths and `classes`, by name those of the class. None is
        what is undefined; what the counts do not tell is left out.

    Raises:
        ValueError: There is not one name a class.
    """
    if counts.pixels.truth.shape != (len(class_names),):
        raise ValueError(
            f"counts of shape {counts.pixels.truth.shape}; expected {len(class_names)} classes, "
            f"one for each of {', '.join(class_names)}"
        )
    tree: dict[str, Any] = {}
    for metric in SPLIT_METRICS:
        if (value := metric.value(counts)) is not None:
            *parents, key = metric.keys
            part = tree
            for parent in parents:
                part = part.setdefault(parent, {})
            part[key] = _json(value)
    if counts.boundary is not None:
        tree["boundary"] |= {"band": BAND, "tolerance": TOLERANCE}
    if counts.calibration is not None:
        tree["calibration"] |= {
            "confidence": _json(counts.calibration.mean_confidence()),
            "bins": counts.calibration.bins(),
        }
    by_class = {one.name: one.value(counts) for one in CLASS_METRICS}
    tree["classes"] = {
        name: {
            metric: _json(values[index])
            for metric, values in by_class.items()
            if values is not None
        }
        for index, name in enumerate(class_names)
    }
    return tree


def recorded(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of each metric that goes into MLflow; NaN is what is undefined.

    Metrics that the evaluation lacks, as one of an older release may, are left out.
    """
    for metric in shown(SPLIT_METRICS, "mlflow"):
        part: Any = evaluation
        for key in metric.keys[:-1]:
            part = part.get(key) or {}
        if metric.keys[-1] in part:
            yield metric.name, _float(part[metric.keys[-1]])
    for name, values in evaluation.get("classes", {}).items():
        for metric in shown(CLASS_METRICS, "mlflow"):
            if metric.name in values:
                yield f"{metric.name}/{name}", _float(values[metric.name])


def _json(value: Any) -> float | int | None:
    if isinstance(value, int | np.integer):
        return int(value)
    return None if math.isnan(value) else float(value)


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
