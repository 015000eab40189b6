"""Counts everything about images, adds it up, and tells where a split's errors are.

No metric is a mean of metrics of single images, but for the Hausdorff distance, which is defined
for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.metrics.boundary import boundary_counts, fill_void
from segops.metrics.calibration import calibration_counts
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import BoundaryCounts, CalibrationCounts, SplitCounts, UnionErrorCounts
from segops.metrics.iou import class_pixels
from segops.metrics.slices import Objects, Slices, find_objects
from segops.metrics.union_errors import union_errors
from segops.metrics.wrong_pixels import KINDS, find_errors

PAIRS = 20
"""Confusions that a summary names."""


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
        union_errors: Wrong pixels of each class by kind.
    """

    confusion: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    errors: list[tuple[int, str, int]]
    boundary: BoundaryCounts
    calibration: CalibrationCounts | None
    objects: Objects
    union_errors: UnionErrorCounts


def judge_image(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: int,
    top: NDArray[np.float32] | None = None,
    background: int | None = 0,
) -> ImageFigures:
    """Count everything about one image.

    Safe to call in several threads; most of the time is spent without Python's lock.

    Args:
        truth: uint8 (H, W): ids below `classes`, or 255 for void.
        prediction: uint8 (H, W): ids below `classes`.
        classes: Number of classes.
        top: Probability of the predicted class, float32 (H, W), if it is known.
        background: The class that is background; None: none is.

    Raises:
        ValueError: Shapes or types are other than said, an id is no class, or `top` holds what is
            no probability.
    """
    truth, prediction = np.ascontiguousarray(truth), np.ascontiguousarray(prediction)
    confusion = confusion_matrix(truth, prediction, classes)
    filled = fill_void(truth)
    of_unions = union_errors(truth, filled, prediction, confusion)  # takes the most memory: first
    kinds, errors = find_errors(truth, filled, prediction, background)
    labels = np.flatnonzero(confusion.any(axis=1)).tolist()
    return ImageFigures(
        confusion=confusion,
        kinds=kinds,
        errors=errors,
        boundary=boundary_counts(truth, filled, prediction, classes),
        calibration=None if top is None else calibration_counts(truth, prediction, top),
        objects=find_objects(truth, prediction, labels, background),
        union_errors=of_unions,
    )


class SplitFigures:
    """Adds up the figures of images; its size does not depend on how many there are.

    `class_names` are in id order; `details` is False where only pixels are counted.
    """

    def __init__(self, class_names: Sequence[str], details: bool = True) -> None:
        self._details = details
        self.class_names = tuple(class_names)
        classes = len(self.class_names)
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.boundary = BoundaryCounts.zeros(classes)
        self.calibration = CalibrationCounts.zeros()
        self.union_errors = UnionErrorCounts.zeros(classes)
        self.errors = dict.fromkeys(KINDS, 0)
        self._slices = Slices(classes)

    def add(self, figures: ImageFigures) -> None:
        """Add those of one image."""
        self.confusion += figures.confusion
        self.boundary.add(figures.boundary)
        self.union_errors.add(figures.union_errors)
        if figures.calibration is not None:
            self.calibration.add(figures.calibration)
        for _, kind, pixels in figures.errors:
            self.errors[kind] += pixels
        self._slices.add(figures.objects, figures.confusion)

    @property
    def counts(self) -> SplitCounts:
        """What the metrics are computed from."""
        return SplitCounts(
            class_pixels(self.confusion),
            self.boundary if self._details else None,
            self.calibration if self.calibration.pixels.any() else None,
            self.union_errors if self._details else None,
        )

    def summary(self) -> dict[str, Any]:
        """Where the errors are, ready for JSON; what is undefined is None.

        Returns:
            `slices` (see :mod:`segops.metrics.slices`), `confusions` (the largest cells off the
            diagonal: `truth`, `predicted`, `pixels`, `share` of the true class's pixels) and
            `errors` (pixels by kind). Empty where only pixels were counted.
        """
        if not self._details:
            return {}
        return {
            "slices": self._slices.summary(),
            "confusions": self._confusions(),
            "errors": dict(self.errors),
        }

    def _confusions(self) -> list[dict[str, Any]]:
        off = self.confusion.copy()
        np.fill_diagonal(off, 0)
        truth = self.confusion.sum(axis=1)
        # Stable: of equal cells the one with the lower ids comes first.
        order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
        return [
            {
                "truth": self.class_names[row],
                "predicted": self.class_names[column],
                "pixels": int(off[row, column]),
                "share": int(off[row, column]) / int(truth[row]),
            }
            for row, column in zip(*np.unravel_index(order, off.shape), strict=True)
            if off[row, column] > 0
        ]
