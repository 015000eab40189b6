"""Chooses images that are uncertain and unlike each other, from their features.

The greedy choice of k centres: Sener and Savarese, "Active Learning for Convolutional Neural
Networks: A Core-Set Approach", ICLR 2018, algorithm 1. It takes, again and again, the image that is
farthest from all images that are labelled or taken already. Here the distance is multiplied by the
image's uncertainty, so that an image that the model is sure of must be farther away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FARTHEST = 2.0
"""The largest distance of two vectors of length 1: the distance to an empty set."""
LEAST_UNCERTAINTY = 1e-6
"""Images of no uncertainty are chosen by their distance alone."""
DIGITS = 4
"""Digits of distances, so that the last bits of a sum decide nothing."""
_ROWS = 2048
"""Rows of features that are worked on at a time."""


@dataclass(frozen=True)
class Pick:
    """A chosen image.

    Attributes:
        index: Its row.
        distance: Euclidean distance, 0..2, from its features to those of the nearest image that is
            labelled or was chosen before it; `FARTHEST` where there was none.
    """

    index: int
    distance: float


def unit(features: NDArray[Any]) -> NDArray[np.float32]:
    """Features of an image, shape (D,), scaled to length 1; zeros stay zeros."""
    wide = features.astype(np.float32)
    scaled: NDArray[np.float32] = wide / np.float32(max(float(np.linalg.norm(wide)), 1e-12))
    return scaled


def choose(
    features: NDArray[np.float32],
    uncertainty: NDArray[np.float64],
    labelled: NDArray[np.float32],
    count: int,
) -> list[Pick]:
    """Choose images one after another. Of images that are equally good the first is taken.

    Time is linear in the images, and in the sum of the labelled and the chosen ones.

    Args:
        features: (N, D), rows as of :func:`unit`; may be a file that is mapped into memory.
        uncertainty: (N,), 0..1.
        labelled: (M, D), those of labelled images; M may be 0.
        count: How many to choose; more than N are N.

    Returns:
        The chosen images in the order in which they were chosen.
    """
    nearest = np.full(len(features), FARTHEST)
    if len(labelled):
        _approach(nearest, features, labelled)
    weight = np.maximum(uncertainty, LEAST_UNCERTAINTY)
    left = np.ones(len(features), dtype=bool)
    picks: list[Pick] = []
    while len(picks) < min(count, len(features)):
        worth = np.where(left, weight * nearest, -1.0)
        index = int(worth.argmax())
        picks.append(Pick(index, float(nearest[index])))
        left[index] = False
        _approach(nearest, features, features[index : index + 1])
    return picks


def _approach(
    nearest: NDArray[np.float64], features: NDArray[np.float32], centres: NDArray[np.float32]
) -> None:
    """Lower the distances to the nearest centre, (N,), by those to further centres, (K, D)."""
    squares = (centres**2).sum(axis=1)
    for start in range(0, len(features), _ROWS):
        part = features[start : start + _ROWS]
        if len(centres) == 1:  # exact, so that a copy of the centre has distance 0
            square = ((part - centres) ** 2).sum(axis=1)
        else:
            products = part @ centres.T
            square = ((part**2).sum(axis=1, keepdims=True) + squares - 2 * products).min(axis=1)
        distance = np.sqrt(square.clip(min=0).astype(np.float64)).round(DIGITS)
        kept = nearest[start : start + _ROWS]
        np.minimum(kept, distance, out=kept)
