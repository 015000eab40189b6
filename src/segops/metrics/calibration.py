"""Whether a model's confidence means what it says: expected calibration error.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2, equation 3,
with 15 bins: the mean over the pixels of | accuracy - confidence | of the bin they are in.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.metrics.counts import BINS, CalibrationCounts
from segops.runtime.classes import VOID
from segops.voc.histogram import count_ids


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
