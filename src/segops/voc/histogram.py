"""How often ids occur in masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

IDS = 256
EXACT_PIXELS = 2**24
"""Pixels that are counted at a time: ``cv2.calcHist`` gives counts as float32, exact up to here."""


def count_ids(*masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of a mask by their id, or of two masks by their pair of ids.

    Args:
        masks: One or two of uint8, of any shape, the same for both.

    Returns:
        int64 of shape (256,) or (256, 256); with two masks, rows are ids of the first.
    """
    rows = [mask.reshape(1, -1) for mask in masks]  # copies only what is not contiguous
    sides = [IDS for _ in rows]
    total = np.zeros(sides, np.int64)
    for start in range(0, rows[0].size, EXACT_PIXELS):
        part = [row[:, start : start + EXACT_PIXELS] for row in rows]
        counts = cv2.calcHist(part, [*range(len(part))], None, sides, [0, IDS] * len(part))
        total += counts.reshape(sides).astype(np.int64)
    return total
