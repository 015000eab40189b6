"""Distances between two sets of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Points = NDArray[np.intp]

_REACH = 5
_FIRST = 21
"""Steps that are tried first: those of up to 2.24 pixels."""
_POINTS = 4096
"""Points that are looked at at a time, which bounds the memory."""


def _steps() -> Points:
    """The steps of up to `_REACH` pixels, shortest first: rows and columns, shape (2, n)."""
    axis = np.arange(-_REACH, _REACH + 1)
    steps = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    squares = (steps**2).sum(axis=0)
    order = np.argsort(squares, kind="stable")
    return np.asarray(steps[:, order[squares[order] <= _REACH**2]], np.intp)


_STEPS = _steps()
_LENGTHS = np.sqrt((_STEPS**2).sum(axis=0))


def nearest_distances(points: Points, targets: Points) -> NDArray[np.float64]:
    """Euclidean distance from each point to the nearest target.

    Contours that are compared lie close together, so the pixels around each point are tried first,
    from near to far; a k-d tree answers for the points that have no target there.

    Args:
        points: Rows and columns, shape (2, n), n at least 1.
        targets: Rows and columns, shape (2, m), m at least 1.

    Returns:
        float64 of shape (n,), in pixels.
    """
    low = np.minimum(points.min(axis=1), targets.min(axis=1)) - _REACH
    height, width = np.maximum(points.max(axis=1), targets.max(axis=1)) - low + 1 + _REACH
    # A picture of the targets with a margin, so that no step leads out of it.
    plane = np.zeros(height * width, np.bool_)
    plane[(targets[0] - low[0]) * width + (targets[1] - low[1])] = True
    places = (points[0] - low[0]) * width + (points[1] - low[1])
    steps = _STEPS[0] * width + _STEPS[1]
    distances = np.full(places.shape, -1.0)
    far = np.arange(places.size)
    for part in (slice(0, _FIRST), slice(_FIRST, None)):
        first = _first_hits(plane, places.take(far), steps[part])
        distances[far] = _LENGTHS[part].take(first, mode="clip")
        far = far[first == len(steps[part])]
        if not far.size:
            return distances
    tree = cKDTree(targets.T, balanced_tree=False, compact_nodes=False)  # built once, asked once
    distances[far] = tree.query(points[:, far].T)[0]
    return distances


def _first_hits(
    plane: NDArray[np.bool_], places: NDArray[np.intp], steps: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The first of the steps that leads from each place to a target; their number if none does."""
    found = np.empty(places.shape, np.intp)
    for start in range(0, places.size, _POINTS):
        hit = plane.take(places[start : start + _POINTS, None] + steps)
        first = hit.argmax(axis=1)
        first[~hit[np.arange(first.size), first]] = steps.size
        found[start : start + _POINTS] = first
    return found
