"""Metrics of pixel counts by class, beside IoU; all in float64, in 0..1.

A class that occurs neither in the truth nor in the prediction has the value NaN.

Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5
(pixel accuracy, mean accuracy, frequency-weighted IU).
"""

from __future__ import annotations

import math

import numpy as np

from segops.metrics.iou import ClassPixels, Numbers, PerClass, iou, ratio


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
