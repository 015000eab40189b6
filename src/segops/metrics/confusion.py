"""The confusion matrix of two masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.voc.classes import VOID

IDS = 256
EXACT_PIXELS = 2**24
"""``cv2.calcHist`` counts in integers and hands them out as float32, exact up to here."""


def confusion_matrix(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Count how often each class of the truth was predicted as each class.

    Pixels whose truth is void (255) count nowhere. Matrices of several images add up.

    Args:
        truth: uint8 of shape (H, W): ids below `classes`, or 255 for void.
        prediction: uint8 of shape (H, W): ids below `classes`; void cannot be predicted.
        classes: Number of classes, 1 to 255.

    Returns:
        int64 of shape (classes, classes): rows are truth, columns are prediction.

    Raises:
        ValueError: Shapes or types are other than said, or an id is no class.
    """
    if not 1 <= classes <= VOID:
        raise ValueError(f"classes is {classes}; expected 1 to {VOID}")
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.dtype != np.uint8 or mask.ndim != 2:
            raise ValueError(
                f"{name} is {mask.dtype} of shape {mask.shape}; expected uint8 of shape (H, W)"
            )
    if truth.shape != prediction.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape}, truth {truth.shape}; "
            "predict at the size of the ground truth"
        )
    if truth.size == 0:
        return np.zeros((classes, classes), dtype=np.int64)
    if int(prediction.max()) >= classes:
        raise ValueError(f"prediction holds id {prediction.max()}; expected ids below {classes}")
    counts = _joint_histogram(truth, prediction)
    illegal = np.flatnonzero(counts[classes:VOID].any(axis=1)) + classes
    if illegal.size:
        ids = ", ".join(str(one) for one in illegal)
        raise ValueError(f"truth holds id {ids}; expected ids below {classes} or {VOID} for void")
    return counts[:classes, :classes].astype(np.int64)


def _joint_histogram(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Pixels by (truth id, predicted id), shape (256, 256), exact whatever the size."""
    if truth.size <= EXACT_PIXELS:
        return _histogram(truth, prediction)
    total = np.zeros((IDS, IDS), dtype=np.int64)
    flat_truth, flat_prediction = truth.reshape(1, -1), prediction.reshape(1, -1)
    for start in range(0, truth.size, EXACT_PIXELS):
        part = slice(start, start + EXACT_PIXELS)
        total += _histogram(flat_truth[:, part], flat_prediction[:, part]).astype(np.int64)
    return total


def _histogram(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.float32]:
    # All 256 ids, not only the classes: a size that is a power of two is the fastest here, and
    # ids that are no class show up instead of being dropped.
    pair = [np.ascontiguousarray(truth), np.ascontiguousarray(prediction)]
    counts = cv2.calcHist(pair, [0, 1], None, [IDS, IDS], [0, IDS, 0, IDS])
    return np.asarray(counts, dtype=np.float32)
