"""All counts of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segops.metrics.boundary import boundary_counts, fill_void
from segops.metrics.calibration import calibration_counts
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import BoundaryCounts, CalibrationCounts
from segops.metrics.slices import Objects, find_objects
from segops.metrics.wrong_pixels import find_errors


@dataclass(frozen=True)
class ImageFigures:
    """The counts of one image.

    Attributes:
        confusion: int64 (C, C), rows truth, columns prediction; void is left out.
        kinds: uint8 (H, W): 0 where a pixel is right or void, else 1 + the index of its kind of
            error in :data:`segops.metrics.wrong_pixels.KINDS`.
        errors: Wrong pixels as (class, kind, pixels); see :mod:`segops.metrics.wrong_pixels`.
        boundary: Counts of bands and contours.
        calibration: Counts by confidence, None where confidences are not known.
        objects: The objects of the truth.
    """

    confusion: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    errors: list[tuple[int, str, int]]
    boundary: BoundaryCounts
    calibration: CalibrationCounts | None
    objects: Objects


def judge_image(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: int,
    top: NDArray[np.float32] | None = None,
) -> ImageFigures:
    """Count everything about one image.

    Safe to call in several threads; most of the time is spent without Python's lock.

    Args:
        truth: uint8 (H, W): ids below `classes`, or 255 for void.
        prediction: uint8 (H, W): ids below `classes`.
        classes: Number of classes.
        top: Probability of the predicted class, float32 (H, W), if it is known.

    Raises:
        ValueError: Shapes or types are other than said, an id is no class, or `top` holds what is
            no probability.
    """
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    confusion = confusion_matrix(truth, prediction, classes)
    filled = fill_void(truth)
    kinds, errors = find_errors(truth, filled, prediction)
    return ImageFigures(
        confusion=confusion,
        kinds=kinds,
        errors=errors,
        boundary=boundary_counts(truth, filled, prediction, classes),
        calibration=None if top is None else calibration_counts(truth, prediction, top),
        objects=find_objects(truth, prediction, np.flatnonzero(confusion.any(axis=1)).tolist()),
    )
