"""Counts, for each id of a mask, the pixels at its borders and the loose ones among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IDS = 256
ROWS = 512
"""Rows looked at together, which bounds the memory."""

Counts = NDArray[np.int64]


def border_pixels(
    mask: NDArray[np.uint8] | NDArray[np.uint16], number: int = IDS
) -> tuple[Counts, Counts]:
    """Count pixels by their four neighbours.

    Args:
        mask: Uint8 or uint16 (H, W).
        number: How many ids there are.

    Returns:
        Int64 (number,) each, by id: pixels with a neighbour of another id, and loose pixels, those
        with at most one neighbour of their own id. A drawn outline has few loose pixels, also where
        it is slanted; noise, resampling and per-pixel guesses leave many.
    """
    border, loose = np.zeros(number, np.int64), np.zeros(number, np.int64)
    for start in range(0, mask.shape[0], ROWS):
        first, last = max(start - 1, 0), min(start + ROWS + 1, mask.shape[0])
        part = mask[first:last]
        others = np.zeros(part.shape, np.uint8)
        for one, two in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
            other = (part[one] != part[two]).view(np.uint8)
            others[one] += other
            others[two] += other
        inner = slice(start - first, start - first + ROWS)
        places = np.flatnonzero(others[inner] > 0)
        # Beyond the image there is no pixel of any id.
        others[:, 0] += 1
        others[:, -1] += 1
        others[: int(first == 0)] += 1
        others[len(part) - int(last == mask.shape[0]) :] += 1
        ids = part[inner].ravel()[places]
        border += np.bincount(ids, minlength=number)
        loose += np.bincount(ids[others[inner].ravel()[places] >= 3], minlength=number)
    return border, loose
