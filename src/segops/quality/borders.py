"""Counts, for each id of a mask, the pixels at its borders and the loose ones among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IDS = 256
ROWS = 512
"""Rows looked at together, which bounds the memory."""

Counts = NDArray[np.int64]


def border_pixels(mask: NDArray[np.uint8]) -> tuple[Counts, Counts]:
    """Count pixels by their four neighbours.

    Args:
        mask: Uint8 (H, W).

    Returns:
        Int64 (256,) each, by id: pixels with a neighbour of another id, and loose pixels, those
        with at most one neighbour of their own id. A drawn outline has few loose pixels, also where
        it is slanted; noise, resampling and per-pixel guesses leave many.
    """
    border, loose = np.zeros(IDS, np.int64), np.zeros(IDS, np.int64)
    for start in range(0, mask.shape[0], ROWS):
        first, last = max(start - 1, 0), min(start + ROWS + 1, mask.shape[0])
        part = mask[first:last]
        equal = np.zeros(part.shape, np.uint8)
        other = np.zeros(part.shape, np.bool_)
        for one, two in (
            ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
            ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ):
            same = part[one] == part[two]
            equal[one] += same
            equal[two] += same
            other[one] |= ~same
            other[two] |= ~same
        rows = slice(start - first, start - first + min(ROWS, mask.shape[0] - start))
        shown, at_border = part[rows], other[rows]
        border += np.bincount(shown[at_border], minlength=IDS)
        loose += np.bincount(shown[at_border & (equal[rows] <= 1)], minlength=IDS)
    return border, loose
