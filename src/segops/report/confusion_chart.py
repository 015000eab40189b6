"""What charts show of a confusion matrix, int64 (C, C), rows truth, columns prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segops.metrics.iou import ratio


def occurring(confusion: NDArray[np.int64]) -> NDArray[np.intp]:
    """Ids of the classes that occur in truth or prediction, ascending."""
    return np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))


def most_confused(confusion: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Ids of the classes with most pixels off the diagonal, at most `most` of them, ascending."""
    ids = occurring(confusion)
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    ranked = sorted(ids.tolist(), key=lambda index: (-int(wrong[index]), index))
    return np.array(sorted(ranked[:most]), dtype=np.intp)


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Every row divided by its sum, float64 (C, C) in [0, 1]; NaN in rows without true pixels."""
    return ratio(confusion, np.broadcast_to(confusion.sum(axis=1, keepdims=True), confusion.shape))
