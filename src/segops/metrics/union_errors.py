"""What keeps a class from an IoU of 1: errors at its boundary, in its extent, of whole segments.

Source: Bernhard et al., "What's Outside the Intersection? Fine-grained Error Analysis for Semantic
Segmentation Beyond IoU", WACV 2024, section 3, and its reference code (``mxbh/beyond-iou``).

Each class is judged alone, as a binary mask in truth and prediction. A wrong pixel of the class
lies in one of the two and not in the other; it is of exactly one kind:

- `boundary`: within `d` of a right pixel of the class and of a pixel that lies in neither mask, or
  within `d` of such a wrong pixel of the same side (the side is truth or prediction). Of these
  pixels a connected part counts only if it borders on a right pixel and on a pixel of neither
  mask: an error that has to do with no contour is none of the boundary.
- `extent`: else, where the segment of truth or prediction that it belongs to holds a right pixel:
  the segment was found, and is too small or too large.
- `segment`: else: a whole segment was missed or invented.

Segments are 8-connected. `d` is :data:`WIDTH` of the image's diagonal, as in the reference code.
Distances are in the square metric, as in Boundary IoU and in the reference code's ``fast`` variant;
its ``exact`` variant takes the Euclidean distance. Void is filled with the nearest label first, as
for every figure of contours here, and counts in no number; the reference code takes void for a
pixel of another class.

The pixels of the three kinds divided by the union of truth and prediction add up to 1 - IoU.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.metrics.counts import UnionErrorCounts
from segops.metrics.iou import class_pixels
from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]
Region = NDArray[np.bool_]

WIDTH = 0.01
"""Greatest distance of a boundary error from a contour, as a share of the image's diagonal."""
_AT_ONCE = 2**18
"""Pixels whose components are looked up at a time: their numbers become int64 for that."""
_AROUND = np.ones((3, 3), np.uint8)


def union_errors(
    truth: Mask, filled: Mask, prediction: Mask, confusion: NDArray[np.int64]
) -> UnionErrorCounts:
    """Count the wrong pixels of each class of one image by their kind.

    The time grows with the pixels around the errors of each class, and with the width of the
    boundary, as that of the bands of boundary IoU does.

    Args:
        truth: uint8 (H, W) of class ids, or 255 for void.
        filled: The same after :func:`segops.metrics.boundary.fill_void`.
        prediction: uint8 (H, W) of class ids.
        confusion: int64 (C, C), the confusion matrix of the two.
    """
    both, predicted, true = class_pixels(confusion)
    counts = UnionErrorCounts.zeros(len(confusion))
    counts.union += predicted + true - both
    width = max(1, round(WIDTH * math.hypot(*truth.shape)))
    for label in np.flatnonzero(counts.union > both).tolist():
        kinds = _of_class(truth, filled, prediction, label, width)
        counts.boundary[label], counts.extent[label], counts.segment[label] = kinds
    return counts


def _of_class(
    truth: Mask, filled: Mask, prediction: Mask, label: int, width: int
) -> tuple[int, int, int]:
    """Wrong pixels of a class: boundary, extent and segment errors."""
    wrong = (filled == label) != (prediction == label)
    left, top, across, down = cv2.boundingRect(wrong.view(np.uint8))
    # What decides about a wrong pixel lies within `width` of a wrong pixel.
    part = np.s_[
        max(0, top - width) : top + down + width, max(0, left - width) : left + across + width
    ]
    del wrong
    true, predicted = filled[part] == label, prediction[part] == label
    right, sides = true & predicted, (true & ~predicted, predicted & ~true)
    if not right.any():
        return 0, 0, sum(_labelled(side, truth[part]) for side in sides)
    true |= predicted
    neither = np.logical_not(true, out=true)
    near = _dilated(right, width)
    near &= _dilated(neither, width)
    edges = [_dilated(side & near, width) for side in sides]
    found, beside = _dilated(right, 1), _dilated(neither, 1)
    del true, predicted, right, neither, near
    boundary = extent = segment = 0
    for side, edge in zip(sides, edges, strict=True):
        edge &= side
        if edge.any():
            _keep_touching(edge, found, beside)
        boundary += _labelled(edge, truth[part])
        rest = np.greater(side, edge, out=edge)
        if lacking := _labelled(rest, truth[part]):
            # A segment holds a right pixel if one borders on its connected wrong pixels.
            _keep_touching(side, found)
            rest &= side
            of_found = _labelled(rest, truth[part])
            extent += of_found
            segment += lacking - of_found
    return boundary, extent, segment


def _labelled(region: Region, truth: Mask) -> int:
    """Pixels of a region whose truth is not void."""
    return int(np.count_nonzero(region & (truth != VOID)))


def _dilated(region: Region, width: int) -> Region:
    """The pixels within `width` of a region, in the square metric."""
    square = _AROUND if width == 1 else np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return cv2.dilate(region.view(np.uint8), square).view(np.bool_)


def _keep_touching(region: Region, *others: Region) -> None:
    """Leave of a region its 8-connected components that have a pixel in each of the others."""
    count, components = cv2.connectedComponents(region.view(np.uint8), connectivity=8)
    kept = np.ones(count, np.bool_)
    for other in others:
        hit = np.zeros(count, np.bool_)
        hit[components[region & other]] = True
        kept &= hit
    kept[0] = False  # what is outside of the region
    if kept[1:].all():
        return
    rows = max(1, _AT_ONCE // region.shape[1])
    for start in range(0, len(region), rows):
        some = slice(start, start + rows)
        region[some] = kept.take(components[some].astype(np.intp))
