"""The figures of a split beyond IoU: contours, calibration, slices, confusions, errors.

All come from counts that add up over the images; none is a mean of figures of single images, but
for the Hausdorff distance, which is defined for one image. See :mod:`segops.metrics.iou` for the
rule on means over classes: they go over the classes that occur in the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.metrics.boundary import BAND, TOLERANCE, BoundaryCounts
from segops.metrics.calibration import CalibrationCounts
from segops.metrics.errors import KINDS
from segops.metrics.image import ImageFigures
from segops.metrics.iou import truth_pixels
from segops.metrics.slices import Slices

PAIRS = 20
"""Confusions that a summary names."""


class SplitFigures:
    """Adds up the figures of images; its size does not depend on how many there are.

    Args:
        class_names: The C names in id order.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        classes = len(self.class_names)
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.boundary = BoundaryCounts.zeros(classes)
        self.calibration = CalibrationCounts.zeros()
        self.errors = dict.fromkeys(KINDS, 0)
        self._slices = Slices(classes)

    def add(self, figures: ImageFigures) -> None:
        """Add those of one image."""
        self.confusion += figures.confusion
        self.boundary.add(figures.boundary)
        if figures.calibration is not None:
            self.calibration.add(figures.calibration)
        for _, kind, pixels in figures.errors:
            self.errors[kind] += pixels
        self._slices.add(figures.objects, figures.confusion)

    def summary(self) -> dict[str, Any]:
        """All figures, ready for JSON; what is undefined is None.

        Returns:
            `boundary` (`iou`, `f1`, `contour_distance`, `hausdorff95`: means over the classes that
            occur in the truth; `band`, `tolerance`), `classes` (by name `boundary_iou`,
            `boundary_f1`, `contour_distance`, `hausdorff95`), `calibration` (see
            :meth:`segops.metrics.calibration.CalibrationCounts.summary`), `slices` (see
            :mod:`segops.metrics.slices`), `confusions` (the largest cells off the diagonal:
            `truth`, `predicted`, `pixels`, `share` of the true class's pixels) and `errors` (pixels
            by kind).
        """
        by_class = {
            "boundary_iou": self.boundary.iou(),
            "boundary_f1": self.boundary.f1(),
            "contour_distance": self.boundary.contour_distance(),
            "hausdorff95": self.boundary.hausdorff95(),
        }
        occurs = truth_pixels(self.confusion) > 0
        means = {
            name.removeprefix("boundary_"): _mean(values[occurs])
            for name, values in by_class.items()
        }
        return {
            "boundary": means | {"band": BAND, "tolerance": TOLERANCE},
            "classes": {
                name: {figure: _or_none(values[index]) for figure, values in by_class.items()}
                for index, name in enumerate(self.class_names)
            },
            "calibration": self.calibration.summary(),
            "slices": self._slices.summary(),
            "confusions": self._confusions(),
            "errors": dict(self.errors),
        }

    def _confusions(self) -> list[dict[str, Any]]:
        off = self.confusion.copy()
        np.fill_diagonal(off, 0)
        truth = truth_pixels(self.confusion)
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


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
