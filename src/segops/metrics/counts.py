"""What the metrics of a split are computed from: counts that add up over images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segops.metrics.iou import ClassPixels, PerClass, ratio

BAND = 0.02
"""Width of the band of boundary IoU as a share of the image's diagonal (Cheng et al.)."""
TOLERANCE = 0.0075
"""How far apart contours of boundary F1 may lie, as a share of the diagonal (Csurka et al.)."""
UNION_ERRORS = ("boundary", "extent", "segment")
"""Kinds of wrong pixels of a class; see :mod:`segops.metrics.union_errors`."""
BINS = 15
"""Bins of the expected calibration error (Guo et al.)."""


@dataclass
class Counts:
    """Arrays that add up over images."""

    def add(self, other: Self) -> None:
        """Add those of another image or split."""
        for field in fields(self):
            getattr(self, field.name).__iadd__(getattr(other, field.name))

    def to_json(self) -> dict[str, list[float]]:
        """Ready for JSON, exact."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, list[float]]) -> Self:
        """The counts that :meth:`to_json` wrote."""
        return cls(**{name: np.array(values) for name, values in content.items()})


@dataclass
class BoundaryCounts(Counts):
    """What boundary metrics are computed from, by class.

    All are float64 of shape (C,); counts are whole numbers.

    Attributes:
        band_both: Pixels in both bands of the class.
        band_truth: Pixels in the band of the truth.
        band_predicted: Pixels in the band of the prediction.
        contour_truth: Contour pixels of the truth.
        contour_predicted: Contour pixels of the prediction.
        truth_near: Those of the truth within the tolerance of a predicted one.
        predicted_near: Those of the prediction within the tolerance of a true one.
        distance: Sum of the distances in pixels from each contour pixel to the other contour.
        distances: How many distances that sum has.
        hausdorff: Sum of the 95th percentile Hausdorff distances, one an image that has both
            contours.
        pairs: How many such images there are.
    """

    band_both: NDArray[np.float64]
    band_truth: NDArray[np.float64]
    band_predicted: NDArray[np.float64]
    contour_truth: NDArray[np.float64]
    contour_predicted: NDArray[np.float64]
    truth_near: NDArray[np.float64]
    predicted_near: NDArray[np.float64]
    distance: NDArray[np.float64]
    distances: NDArray[np.float64]
    hausdorff: NDArray[np.float64]
    pairs: NDArray[np.float64]

    @classmethod
    def zeros(cls, classes: int) -> BoundaryCounts:
        """Counts of no image."""
        return cls(*(np.zeros(classes) for _ in fields(cls)))

    def iou(self) -> PerClass:
        """Boundary IoU of each class, 0..1; NaN where it has no band."""
        return ratio(self.band_both, self.band_truth + self.band_predicted - self.band_both)

    def f1(self) -> PerClass:
        """Boundary F1 of each class, 0..1; NaN where it has no contour in truth or prediction."""
        precision = np.nan_to_num(ratio(self.predicted_near, self.contour_predicted))
        recall = np.nan_to_num(ratio(self.truth_near, self.contour_truth))
        value = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
        value[self.contour_truth + self.contour_predicted == 0] = np.nan
        return value

    def contour_distance(self) -> PerClass:
        """Mean symmetric contour distance in pixels; NaN where no image has both contours."""
        return ratio(self.distance, self.distances)

    def hausdorff95(self) -> PerClass:
        """Mean over images of the 95th percentile Hausdorff distance in pixels; or NaN."""
        return ratio(self.hausdorff, self.pairs)


@dataclass
class UnionErrorCounts(Counts):
    """Wrong pixels of each class by kind; see :mod:`segops.metrics.union_errors`.

    All are float64 of shape (C,), whole numbers. A wrong pixel counts for the class that is true
    there and for the one that was predicted.

    Attributes:
        union: Pixels of the class in truth or prediction, void left out.
        boundary: Wrong pixels along a contour that lies a little off.
        extent: Other wrong pixels of segments that were found.
        segment: Pixels of segments that were missed or invented.
    """

    union: NDArray[np.float64]
    boundary: NDArray[np.float64]
    extent: NDArray[np.float64]
    segment: NDArray[np.float64]

    @classmethod
    def zeros(cls, classes: int) -> UnionErrorCounts:
        """Counts of no image."""
        return cls(*(np.zeros(classes) for _ in fields(cls)))

    def boundary_error(self) -> PerClass:
        """Boundary errors of each class over its union, 0..1; NaN where it has none."""
        return ratio(self.boundary, self.union)

    def extent_error(self) -> PerClass:
        """Extent errors over the union, likewise."""
        return ratio(self.extent, self.union)

    def segment_error(self) -> PerClass:
        """Segment errors over the union, likewise."""
        return ratio(self.segment, self.union)


@dataclass
class CalibrationCounts(Counts):
    """Pixels by the confidence of their prediction.

    Bin `i` holds confidences in (i / 15, (i + 1) / 15], the first one 0 as well.

    Attributes:
        pixels: Pixels in each bin, int64 (15,).
        right: Those that are predicted right, int64 (15,).
        confidence: Sum of their confidences, float64 (15,).
    """

    pixels: NDArray[np.int64]
    right: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def zeros(cls) -> CalibrationCounts:
        """Counts of no image."""
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS))

    def error(self) -> float:
        r"""Expected calibration error, 0..1; NaN without pixels.

        The mean over the pixels of \| accuracy - confidence \| of their bin.
        """
        total = int(self.pixels.sum())
        # |right - confidence| of a bin is its pixels times |accuracy - mean confidence|.
        return float(np.abs(self.right - self.confidence).sum() / total) if total else math.nan

    def mean_confidence(self) -> float:
        """Mean confidence of the pixels, 0..1; NaN without pixels."""
        return float(ratio(self.confidence.sum(), self.pixels.sum()))

    def bins(self) -> list[dict[str, Any]]:
        """The bins, ready for JSON.

        Each has `low`, `high`, `pixels`, and `confidence` and `accuracy`, None where it is empty.
        """
        confidence, accuracy = (ratio(one, self.pixels) for one in (self.confidence, self.right))
        return [
            {
                "low": index / BINS,
                "high": (index + 1) / BINS,
                "pixels": int(pixels),
                "confidence": float(confidence[index]) if pixels else None,
                "accuracy": float(accuracy[index]) if pixels else None,
            }
            for index, pixels in enumerate(self.pixels)
        ]


@dataclass(frozen=True)
class SplitCounts:
    """The counts of a split.

    Attributes:
        pixels: Pixels by class, each int64 (C,).
        boundary: Counts of bands and contours; None where only pixels were counted.
        calibration: Counts by confidence; None where confidences are not known.
        union_errors: Wrong pixels by kind; None where only pixels were counted.
    """

    pixels: ClassPixels
    boundary: BoundaryCounts | None = None
    calibration: CalibrationCounts | None = None
    union_errors: UnionErrorCounts | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the pixels, ready for JSON."""
        counts = {
            "boundary": self.boundary,
            "calibration": self.calibration,
            "union_errors": self.union_errors,
        }
        return {name: None if one is None else one.to_json() for name, one in counts.items()}

    @classmethod
    def from_json(cls, pixels: ClassPixels, content: Mapping[str, Any]) -> SplitCounts:
        """The counts of `pixels` and of what :meth:`to_json` wrote, an earlier segops perhaps."""
        boundary, calibration = content["boundary"], content["calibration"]
        union_errors = content.get("union_errors")
        return cls(
            pixels,
            None if boundary is None else BoundaryCounts.from_json(boundary),
            None if calibration is None else CalibrationCounts.from_json(calibration),
            None if union_errors is None else UnionErrorCounts.from_json(union_errors),
        )
