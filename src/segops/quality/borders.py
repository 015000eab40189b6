"""Counts, for each id of a mask, its pixels, those at its borders and the loose ones among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IDS = 256
ROWS = 512
"""Rows looked at together, which bounds the memory."""

Counts = NDArray[np.int64]


class MaskPixels(NamedTuple):
    """Pixels of a mask by their id, int64 (n,) each.

    Attributes:
        all: Every pixel.
        border: Those with a neighbour of another id, of their four neighbours.
        loose: Those with at most one neighbour of their own id. A drawn outline has few, also where
            it is slanted; noise, resampling and per-pixel guesses leave many.
    """

    all: Counts
    border: Counts
    loose: Counts


def count_pixels(mask: NDArray[np.uint8] | NDArray[np.uint16], number: int = IDS) -> MaskPixels:
    """Count the pixels of a mask, uint8 or uint16 (H, W), whose ids are less than `number`."""
    counts = MaskPixels(*(np.zeros(number, np.int64) for _ in MaskPixels._fields))
    height, width = mask.shape
    for start in range(0, height, ROWS):
        first, last = max(start - 1, 0), min(start + ROWS + 1, height)
        flat = mask[first:last].ravel()
        across = np.empty(flat.shape, np.uint8)  # is the next pixel of the row another
        np.not_equal(flat[1:], flat[:-1], out=across[:-1].view(bool))
        across[width - 1 :: width] = 0
        down = (flat[width:] != flat[:-width]).view(np.uint8)
        others = across.copy()
        others[1:] += across[:-1]
        others[:-width] += down
        others[width:] += down
        inner = slice((start - first) * width, (start - first + ROWS) * width)
        flat, across = flat[inner], across[inner]
        places = np.flatnonzero(others[inner] > 0)
        # Beyond the image there is no pixel of any id.
        others[::width] += 1
        others[width - 1 :: width] += 1
        others[: width * (first == 0)] += 1
        others[len(others) - width * (last == height) :] += 1
        ids = flat[places]
        counts.border[:] += np.bincount(ids, minlength=number)
        counts.loose[:] += np.bincount(ids[others[inner][places] >= 3], minlength=number)
        counts.all[:] += _by_runs(flat.reshape(-1, width), places[across[places] > 0], number)
    return counts


def _by_runs(mask: NDArray[np.uint8] | NDArray[np.uint16], ends: Counts, number: int) -> Counts:
    """Pixels by id: the sum of where its runs end, less that of where they start.

    `ends` are the places in the flat mask of the last pixels of runs within a row. A row begins a
    run; where that goes on with the id of the row before, an end and a start cancel each other.
    """
    flat, width = mask.ravel(), mask.shape[1]
    rows = np.arange(len(mask) + 1) * width
    last = np.concatenate([flat[ends], mask[:, -1]])
    first = np.concatenate([flat[ends + 1], mask[:, 0]])
    stops = np.bincount(last, np.concatenate([ends + 1, rows[1:]]), number)
    starts = np.bincount(first, np.concatenate([ends + 1, rows[:-1]]), number)
    return (stops - starts).astype(np.int64)
