"""Metrics of pixel counts by class: intersection over union and its kin, in float64, in 0..1.

A class that occurs neither in the truth nor in the prediction has the value NaN. Sources:
Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015, section
3.3 (IoU and its mean over the classes in the truth); Long et al., "Fully Convolutional Networks for
Semantic Segmentation", CVPR 2015, section 5 (pixel accuracy, mean accuracy, frequency-weighted IU).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64] | NDArray[np.float64]
PerClass = NDArray[np.float64]


class ClassPixels(NamedTuple):
    """Pixels of each class, void left out; whole numbers of shape (..., C).

    Attributes:
        intersection: Pixels of the class that are predicted as the class.
        predicted: Pixels predicted as the class.
        truth: Pixels of the class in the truth.
    """

    intersection: Numbers
    predicted: Numbers
    truth: Numbers


@dataclass(frozen=True)
class Difference:
    """A score of one model minus that of another on the same images.

    Attributes:
        difference: -1..1; NaN where the score is undefined.
        low: Lower end of its paired bootstrap interval; NaN where there is none.
        high: Upper end, likewise.
    """

    difference: float
    low: float
    high: float


def class_pixels(confusion: NDArray[np.int64]) -> ClassPixels:
    """The pixels of each class, int64 (C,), from a confusion matrix, int64 (C, C).

    Rows are truth, columns prediction; see :func:`segops.metrics.confusion.confusion_matrix`.
    """
    return ClassPixels(confusion.diagonal().copy(), confusion.sum(axis=0), confusion.sum(axis=1))


def iou(intersection: Numbers, predicted: Numbers, truth: Numbers) -> PerClass:
    """IoU of each class, float64 of shape (..., C) in 0..1.

    NaN where a class occurs neither in the truth nor in the prediction.
    """
    return ratio(intersection, predicted + truth - intersection)


def miou(intersection: Numbers, predicted: Numbers, truth: Numbers) -> Any:
    """Mean IoU over the classes that occur in the truth, in 0..1; NaN where none does.

    The set of classes depends on the data alone: any two models are averaged over the same classes.
    The pixels are those of a whole split: a mean over images of such values is not mIoU. Arguments
    are of shape (..., C), as in :class:`ClassPixels`; the result is float64 of shape (...).
    """
    occurs = truth > 0
    values = np.where(occurs, iou(intersection, predicted, truth), 0.0)
    # Classes that occur nowhere are dropped, so that they do not change how the sum is rounded.
    somewhere = occurs.any(axis=tuple(range(occurs.ndim - 1)))
    return ratio(values.compress(somewhere, axis=-1).sum(axis=-1), occurs.sum(axis=-1))[()]


def precision(pixels: ClassPixels) -> PerClass:
    """Share of each class's predicted pixels that are right; 0 for a class never predicted."""
    return _zero_where_undefined(pixels.intersection, pixels.predicted, pixels)


def recall(pixels: ClassPixels) -> PerClass:
    """Share of each class's true pixels that are predicted right; 0 for one not in the truth."""
    return _zero_where_undefined(pixels.intersection, pixels.truth, pixels)


def f1(pixels: ClassPixels) -> PerClass:
    """F1 (Dice) of each class: 2 intersection / (truth + predicted)."""
    return ratio(2 * pixels.intersection, pixels.truth + pixels.predicted)


def truth_mean(values: PerClass, pixels: ClassPixels) -> float:
    """Mean over the classes that occur in the truth and have a value; NaN where none does."""
    return _mean(values[pixels.truth > 0])


def miou_truth_or_prediction(pixels: ClassPixels) -> float:
    """Mean IoU over the classes that occur in the truth or in the prediction.

    The other convention in use: a stray prediction of a class that is absent adds a zero.
    """
    return _mean(iou(*pixels))


def pixel_accuracy(pixels: ClassPixels) -> float:
    """Share of the pixels that are predicted right; NaN without pixels."""
    return float(ratio(pixels.intersection.sum(), pixels.truth.sum()))


def frequency_weighted_iou(pixels: ClassPixels) -> float:
    """IoU averaged over classes by their share of the true pixels; NaN without pixels."""
    occurs = pixels.truth > 0
    weighted = pixels.truth[occurs] * iou(*pixels)[occurs]
    return float(ratio(weighted.sum(), pixels.truth.sum()))


def _mean(values: PerClass) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan


def _zero_where_undefined(
    numerator: Numbers, denominator: Numbers, pixels: ClassPixels
) -> PerClass:
    """Quotient; 0 where the class occurs and only the denominator is 0."""
    quotient = ratio(numerator, denominator)
    quotient[(pixels.truth + pixels.predicted > 0) & (denominator == 0)] = 0.0
    return quotient


def ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Quotient in float64; NaN where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)
    return quotient
