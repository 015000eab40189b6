"""Figures that follow from a confusion matrix.

Every function takes an int64 confusion matrix of shape (C, C), rows truth, columns prediction, void
left out; see :func:`segops.metrics.confusion.confusion_matrix`. All work in float64.

Two rules hold throughout. A class that occurs neither in the truth nor in the prediction has no
figure: NaN. A mean over classes goes over the classes *that occur in the truth*, so that it depends
on the data alone which classes any two models are averaged over; only
:func:`miou_truth_or_prediction` does otherwise, and says so by its name.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015,
section 3.3 (intersection over union); Long et al., "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, section 5 (pixel accuracy, mean accuracy, frequency-weighted IU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Confusion = NDArray[np.int64]
PerClass = NDArray[np.float64]


def truth_pixels(confusion: Confusion) -> NDArray[np.int64]:
    """Pixels of each class in the truth, int64 of shape (C,)."""
    pixels: NDArray[np.int64] = confusion.sum(axis=1)
    return pixels


def predicted_pixels(confusion: Confusion) -> NDArray[np.int64]:
    """Pixels predicted as each class, those with void truth left out; int64 of shape (C,)."""
    pixels: NDArray[np.int64] = confusion.sum(axis=0)
    return pixels


def intersection(confusion: Confusion) -> NDArray[np.int64]:
    """Pixels of each class that are predicted as that class, int64 of shape (C,)."""
    pixels: NDArray[np.int64] = confusion.diagonal().copy()
    return pixels


def intersection_over_union(confusion: Confusion) -> PerClass:
    """IoU of each class, float64 of shape (C,) in 0..1: intersection / (truth or predicted).

    NaN where a class occurs neither in the truth nor in the prediction.
    """
    both = intersection(confusion)
    return _ratio(both, truth_pixels(confusion) + predicted_pixels(confusion) - both)


def miou(confusion: Confusion) -> float:
    """Mean IoU over the classes that occur in the truth, in 0..1; NaN where none does.

    The matrix is that of a whole split: a mean over images of such values is not mIoU.
    """
    return _truth_mean(intersection_over_union(confusion), confusion)


def miou_truth_or_prediction(confusion: Confusion) -> float:
    """Mean IoU over the classes that occur in the truth or in the prediction, in 0..1.

    The other convention in use: a stray prediction of a class that is absent adds a zero.
    """
    values = intersection_over_union(confusion)
    return _mean(values[~np.isnan(values)])


def pixel_accuracy(confusion: Confusion) -> float:
    """Share of the pixels that are predicted right, in 0..1; NaN where there are no pixels."""
    total = int(confusion.sum())
    return int(confusion.trace()) / total if total else math.nan


def recall(confusion: Confusion) -> PerClass:
    """Share of each class's true pixels that are found, float64 of shape (C,) in 0..1.

    0 where a class is predicted but not in the truth; NaN where it is in neither.
    """
    return _defined(intersection(confusion), truth_pixels(confusion), confusion)


def precision(confusion: Confusion) -> PerClass:
    """Share of each class's predicted pixels that are right, float64 of shape (C,) in 0..1.

    0 where a class is in the truth but never predicted; NaN where it is in neither.
    """
    return _defined(intersection(confusion), predicted_pixels(confusion), confusion)


def f1(confusion: Confusion) -> PerClass:
    """F1 (Dice) of each class, float64 of shape (C,) in 0..1: 2 intersection / (truth + predicted).

    NaN where a class occurs neither in the truth nor in the prediction.
    """
    return _ratio(
        2 * intersection(confusion), truth_pixels(confusion) + predicted_pixels(confusion)
    )


def mean_class_accuracy(confusion: Confusion) -> float:
    """Mean of :func:`recall` over the classes that occur in the truth, in 0..1."""
    return _truth_mean(recall(confusion), confusion)


def frequency_weighted_iou(confusion: Confusion) -> float:
    """IoU averaged over classes by their share of the true pixels, in 0..1; NaN without pixels."""
    truth = truth_pixels(confusion)
    total = int(truth.sum())
    if total == 0:
        return math.nan
    occurs = truth > 0
    weighted = truth[occurs] * intersection_over_union(confusion)[occurs]
    return float(weighted.sum() / total)


def summary(confusion: Confusion, class_names: Sequence[str]) -> dict[str, Any]:
    """All figures of a confusion matrix, ready for JSON.

    Args:
        confusion: int64 of shape (C, C).
        class_names: The C names in id order.

    Returns:
        `miou`, `miou_truth_or_prediction`, `pixel_accuracy`, `mean_class_accuracy`,
        `frequency_weighted_iou`, `mean_precision`, `mean_recall`, `mean_f1` (means over the classes
        that occur in the truth) and `classes`: by name `iou`, `precision`, `recall`, `f1`,
        `intersection`, `predicted_pixels`, `truth_pixels`. What is undefined is None.

    Raises:
        ValueError: The matrix is not square with one row a name.
    """
    if confusion.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"confusion has shape {confusion.shape}; expected {len(class_names)} rows and columns, "
            f"one for each of {', '.join(class_names)}"
        )
    ious, precisions = intersection_over_union(confusion), precision(confusion)
    recalls, f1s = recall(confusion), f1(confusion)
    both, predicted = intersection(confusion), predicted_pixels(confusion)
    truth = truth_pixels(confusion)
    return {
        "miou": _or_none(miou(confusion)),
        "miou_truth_or_prediction": _or_none(miou_truth_or_prediction(confusion)),
        "pixel_accuracy": _or_none(pixel_accuracy(confusion)),
        "mean_class_accuracy": _or_none(mean_class_accuracy(confusion)),
        "frequency_weighted_iou": _or_none(frequency_weighted_iou(confusion)),
        "mean_precision": _or_none(_truth_mean(precisions, confusion)),
        "mean_recall": _or_none(_truth_mean(recalls, confusion)),
        "mean_f1": _or_none(_truth_mean(f1s, confusion)),
        "classes": {
            name: {
                "iou": _or_none(ious[index]),
                "precision": _or_none(precisions[index]),
                "recall": _or_none(recalls[index]),
                "f1": _or_none(f1s[index]),
                "intersection": int(both[index]),
                "predicted_pixels": int(predicted[index]),
                "truth_pixels": int(truth[index]),
            }
            for index, name in enumerate(class_names)
        },
    }


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> PerClass:
    """Quotient in float64; NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _defined(
    numerator: NDArray[np.int64], denominator: NDArray[np.int64], confusion: Confusion
) -> PerClass:
    """As :func:`_ratio`, but 0 where the class occurs and only the denominator is 0."""
    occurs = truth_pixels(confusion) + predicted_pixels(confusion) > 0
    quotient = _ratio(numerator, denominator)
    quotient[occurs & (denominator == 0)] = 0.0
    return quotient


def _truth_mean(values: PerClass, confusion: Confusion) -> float:
    return _mean(values[truth_pixels(confusion) > 0])


def _mean(values: PerClass) -> float:
    return float(values.mean()) if values.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
