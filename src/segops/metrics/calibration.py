"""Whether a model's confidence means what it says: expected calibration error.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2, equation 3,
with 15 bins: the mean over the pixels of | accuracy - confidence | of the bin they are in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID
from segops.voc.histogram import count_ids

BINS = 15


@dataclass
class CalibrationCounts:
    """Pixels by the confidence of their prediction; adds up over images.

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

    def add(self, other: CalibrationCounts) -> None:
        """Add those of another image or split."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence += other.confidence

    def error(self) -> float:
        """Expected calibration error, 0..1; NaN without pixels."""
        total = int(self.pixels.sum())
        # |right - confidence| of a bin is its pixels times |accuracy - mean confidence|.
        return float(np.abs(self.right - self.confidence).sum() / total) if total else math.nan

    def mean_confidence(self) -> float:
        """Mean confidence of the pixels, 0..1; NaN without pixels."""
        total = int(self.pixels.sum())
        return float(self.confidence.sum() / total) if total else math.nan

    def summary(self) -> dict[str, Any] | None:
        """The figures, ready for JSON: `expected_calibration_error`, `confidence` and `bins`.

        A bin has `low`, `high`, `pixels`, and `confidence` and `accuracy`, None where it is empty.
        None without pixels.
        """
        if not self.pixels.any():
            return None
        return {
            "expected_calibration_error": self.error(),
            "confidence": self.mean_confidence(),
            "bins": [self._bin(index) for index in range(BINS)],
        }

    def _bin(self, index: int) -> dict[str, Any]:
        pixels = int(self.pixels[index])
        return {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "pixels": pixels,
            "confidence": float(self.confidence[index] / pixels) if pixels else None,
            "accuracy": int(self.right[index]) / pixels if pixels else None,
        }


def calibration_counts(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], top: NDArray[np.float32]
) -> CalibrationCounts:
    """Count the pixels of one image by confidence; those whose truth is void are left out.

    Args:
        truth: uint8 (H, W), 255 for void.
        prediction: uint8 (H, W).
        top: Probability of the predicted class, float32 (H, W), 0..1.

    Raises:
        ValueError: `top` has another shape or type, or holds what is no probability.
    """
    if top.dtype != np.float32 or top.shape != truth.shape:
        raise ValueError(
            f"top is {top.dtype} of shape {top.shape}; expected float32 of shape {truth.shape}"
        )
    counts = CalibrationCounts.zeros()
    if top.size == 0:
        return counts
    low, high = float(top.min()), float(top.max())
    if not (low >= 0 and high <= 1 + 1e-4):  # a sum of rounded terms may exceed 1 by a little
        raise ValueError(f"top holds {low:g} to {high:g}; expected probabilities, 0 to 1")
    # round(15 top - 0.5), a half to even, is ceil(15 top) - 1 but for 0, which goes to bin 0 too.
    index = np.minimum(cv2.convertScaleAbs(top, alpha=BINS, beta=-0.5), np.uint8(BINS - 1))
    index += (truth == prediction).view(np.uint8) * np.uint8(BINS)
    void = (truth == VOID).view(np.uint8)
    np.maximum(index, void * np.uint8(2 * BINS), out=index)
    pixels = count_ids(index)[: 2 * BINS].reshape(2, BINS)
    sums = np.bincount(index.reshape(-1), top.reshape(-1), minlength=2 * BINS)[: 2 * BINS]
    counts.pixels += pixels.sum(axis=0)
    counts.right += pixels[1]
    counts.confidence += sums.reshape(2, BINS).sum(axis=0)
    return counts
