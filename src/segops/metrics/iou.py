"""Intersection over union, its mean over the classes that occur in the truth, and differences.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015,
section 3.3.
"""

from __future__ import annotations

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


def ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Quotient in float64; NaN where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)
    return quotient
