"""The confusion matrix of two masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID
from segops.voc.histogram import count_ids


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
    counts = joint_histogram(truth, prediction, classes)
    if counts is None or counts[:, 0].any():
        raise ValueError(_illegal(truth, prediction, classes))
    return counts[1:, 1:]


def joint_histogram(
    first: NDArray[np.uint8], second: NDArray[np.uint8], classes: int
) -> NDArray[np.int64] | None:
    """Count the pixels of two masks, uint8 of the same shape, by their pair of ids.

    Returns:
        int64 of shape (classes + 1, classes + 1): rows are ids of `first`, columns of `second`.
        Index 0 is void (255), `i + 1` is class `i`. None if there is an id that is neither.
    """
    legal = np.arange(-1, classes)  # void is last of the 256 ids, and first here
    counts = count_ids(first, second)[np.ix_(legal, legal)]
    return counts if counts.sum() == first.size else None


def _illegal(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> str:
    """What is wrong with masks that hold an id they may not."""
    if (highest := int(prediction.max())) >= classes:
        return f"prediction holds id {highest}; expected ids below {classes}"
    illegal = [int(one) for one in np.unique(truth) if classes <= one < VOID]
    ids = ", ".join(str(one) for one in illegal)
    return f"truth holds id {ids}; expected ids below {classes} or {VOID} for void"
