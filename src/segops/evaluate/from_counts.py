"""An evaluation from a table of counts alone, where the images are not scored again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.evaluate.bootstrap import PIXELS, interval
from segops.params.evaluate import EvaluateParams


def reduced_evaluation(
    counts: pd.DataFrame, class_names: Sequence[str], settings: EvaluateParams
) -> dict[str, Any]:
    """What the counts tell of a model, under the keys of ``metrics/evaluation.json``.

    What needs the masks is left out: boundaries, calibration, slices, confusions, kinds of error.
    The figures are defined as in :mod:`segops.metrics.iou`.

    Args:
        counts: Table of counts; see :mod:`segops.evaluate.bootstrap`.
        class_names: The names in id order.
        settings: Level, resamples and seed of mIoU's interval.

    Returns:
        The evaluation; undefined figures are None.

    Raises:
        SegopsError: The table lacks a column or contradicts itself.
    """
    low, high = interval(counts, settings.bootstrap_samples, settings.confidence, settings.seed)
    sums = counts.groupby("class_id")[list(PIXELS)].sum().reindex(range(len(class_names)))
    both, predicted, truth = (sums[name].fillna(0).to_numpy(np.int64) for name in PIXELS)
    somewhere, true = predicted + truth > 0, truth > 0
    union = predicted + truth - both
    figures = {
        "iou": _share(both, union, somewhere),
        "precision": _share(both, predicted, somewhere),
        "recall": _share(both, truth, somewhere),
        "f1": _share(2 * both, predicted + truth, somewhere),
    }
    iou = figures["iou"]
    total = int(truth.sum())
    evaluation = {
        "images": int(counts["image_id"].nunique()),
        "miou": _mean(iou[true]),
        "miou_low": low,
        "miou_high": high,
        "confidence": settings.confidence,
        "miou_truth_or_prediction": _mean(iou[somewhere]),
        "pixel_accuracy": int(both.sum()) / total if total else math.nan,
        "mean_class_accuracy": _mean(figures["recall"][true]),
        "frequency_weighted_iou": float((truth * iou)[true].sum() / total) if total else math.nan,
        "mean_precision": _mean(figures["precision"][true]),
        "mean_recall": _mean(figures["recall"][true]),
        "mean_f1": _mean(figures["f1"][true]),
    }
    classes = {
        name: {
            **{score: _or_none(values[label]) for score, values in figures.items()},
            "intersection": int(both[label]),
            "predicted_pixels": int(predicted[label]),
            "truth_pixels": int(truth[label]),
        }
        for label, name in enumerate(class_names)
    }
    return {name: _or_none(value) for name, value in evaluation.items()} | {"classes": classes}


def _share(
    part: NDArray[np.int64], whole: NDArray[np.int64], occurs: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Part by whole; 0 where the class occurs and `whole` is 0, NaN where it does not occur."""
    shares = np.where(occurs, 0.0, math.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def _or_none(value: Any) -> Any:
    return None if math.isnan(value) else value
