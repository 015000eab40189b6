"""How well the contours of a prediction lie: boundary IoU, boundary F1 and contour distances.

Sources: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021, and its reference code (``mask_to_boundary``); Csurka et al., "What is a good evaluation
measure for semantic segmentation?", BMVC 2013, and Perazzi et al., "A Benchmark Dataset and
Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 4 (boundary F1, its
tolerance a share of the image's diagonal). Distances are Euclidean, from each contour pixel to the
nearest of the other contour; the Hausdorff distance of an image is the greater of the two 95th
percentiles, as in Huttenlocher et al., "Comparing Images Using the Hausdorff Distance", TPAMI 1993.

Void. Truth is drawn with a strip of void around each object, so that its contours lie in void. It
is filled with the nearest label first. After that, void pixels count in no band; contour pixels
count in a void strip, but not in wider void (:func:`wide_void`), where nobody knows any contour.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segops.metrics.confusion import joint_histogram
from segops.metrics.counts import BAND, TOLERANCE, BoundaryCounts
from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]

STRIP = 11
"""Void is wide where a square of so many pixels fits in. VOC's strips are 5 wide; rather more at
corners and where two meet."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def band_width(height: int, width: int) -> int:
    """Width in pixels of the band of boundary IoU: at least 1."""
    return max(1, round(BAND * math.hypot(height, width)))


def tolerance(height: int, width: int) -> float:
    """Greatest distance in pixels of contours that agree: at least 1."""
    return max(1.0, TOLERANCE * math.hypot(height, width))


def fill_void(truth: Mask) -> Mask:
    """The truth with each void pixel (255) given the label of the nearest that has one.

    Nearest by OpenCV's 5x5 approximation of the Euclidean distance (within 2 %); a truth that is
    all void stays as it is.
    """
    void = (truth == VOID).view(np.uint8)
    if not void.any() or void.all():
        return truth
    left, top, width, height = cv2.boundingRect(void)
    # The pixels around the box are labelled, so the nearest label lies in it or there.
    part = np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
    inside = np.ascontiguousarray(void[part])
    _, nearest = cv2.distanceTransformWithLabels(
        inside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # It numbers the labelled pixels from 1, in the order of rows.
    crop = truth[part].flatten()
    labels = crop.take(np.flatnonzero(inside == 0))
    places = np.flatnonzero(inside)
    crop[places] = labels.take(nearest.reshape(-1).take(places).astype(np.intp) - 1)
    filled = truth.copy()
    filled[part] = crop.reshape(inside.shape)
    return filled


def wide_void(truth: Mask) -> Mask | None:
    """Where void is wider than a strip along a contour: uint8 (H, W), 1 there; None if nowhere.

    The morphological opening by a square of `STRIP` pixels, or of twice the tolerance of boundary
    F1 where that is more.
    """
    void = (truth == VOID).view(np.uint8)
    if not void.any():
        return None
    side = max(STRIP, 2 * math.ceil(tolerance(*truth.shape)) + 1)
    opened = cv2.morphologyEx(void, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return np.asarray(opened, np.uint8) if opened.any() else None


def band(mask: Mask, width: int) -> NDArray[np.bool_]:
    """Pixels within `width` of another label or of the image's edge, in the square metric.

    For each class the same as ``mask & ~erode(mask, ones(3, 3), iterations=width)`` with a border
    of zeros, as the reference code of boundary IoU has it; here for all classes at once.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)  # `width` times one of 3x3
    low = cv2.erode(mask, square)
    high = cv2.dilate(mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=VOID)
    return np.asarray(low != high)


def contour(mask: Mask) -> NDArray[np.bool_]:
    """Pixels that have one of another label to the left, right, above or below.

    The image's edge is no contour: nobody has drawn it.
    """
    return np.asarray(cv2.erode(mask, _CROSS) != cv2.dilate(mask, _CROSS))


def boundary_counts(truth: Mask, filled: Mask, prediction: Mask, classes: int) -> BoundaryCounts:
    """Count what boundary figures of one image need.

    Args:
        truth: uint8 (H, W) of ids below `classes`, or 255 for void.
        filled: The same after :func:`fill_void`.
        prediction: uint8 (H, W) of ids below `classes`.
        classes: Number of classes.
    """
    counts = BoundaryCounts.zeros(classes)
    void = truth == VOID
    if void.all():
        return counts
    _count_bands(counts, void, filled, prediction)
    _count_contours(counts, wide_void(truth), filled, prediction)
    return counts


def _count_bands(
    counts: BoundaryCounts, void: NDArray[np.bool_], filled: Mask, prediction: Mask
) -> None:
    width = band_width(*filled.shape)
    banded = []
    for mask in (filled, prediction):
        outside = ~band(mask, width)
        outside |= void
        ids = mask.copy()
        ids[outside] = VOID
        banded.append(ids)
    joint = joint_histogram(banded[0], banded[1], len(counts.pairs))
    if joint is None:
        raise ValueError(
            f"a mask holds an id that is no class; expected ids below {len(counts.pairs)}"
        )
    counts.band_both += joint.diagonal()[1:]
    counts.band_truth += joint.sum(axis=1)[1:]
    counts.band_predicted += joint.sum(axis=0)[1:]


def _count_contours(
    counts: BoundaryCounts, ignored: Mask | None, filled: Mask, prediction: Mask
) -> None:
    near = tolerance(*filled.shape)
    true, predicted = _contours(filled, ignored), _contours(prediction, ignored)
    for label in sorted({*true, *predicted}):
        counts.contour_truth[label] = true[label].shape[1] if label in true else 0
        counts.contour_predicted[label] = predicted[label].shape[1] if label in predicted else 0
        if label not in true or label not in predicted:
            continue
        to_prediction = nearest_distances(true[label], predicted[label])
        to_truth = nearest_distances(predicted[label], true[label])
        counts.truth_near[label] = np.count_nonzero(to_prediction <= near)
        counts.predicted_near[label] = np.count_nonzero(to_truth <= near)
        counts.distance[label] = to_prediction.sum() + to_truth.sum()
        counts.distances[label] = len(to_prediction) + len(to_truth)
        counts.hausdorff[label] = max(_percentile95(to_prediction), _percentile95(to_truth))
        counts.pairs[label] = 1


def _contours(mask: Mask, ignored: Mask | None) -> dict[int, NDArray[np.intp]]:
    """The contour pixels of each class that has any: rows and columns, shape (2, n)."""
    found = contour(mask)
    if ignored is not None:
        found &= ignored == 0
    places = np.flatnonzero(found)
    labels = mask.reshape(-1).take(places)
    by_label = {
        int(label): places[labels == label] for label in np.flatnonzero(np.bincount(labels))
    }
    return {label: np.stack(np.divmod(at, mask.shape[1])) for label, at in by_label.items()}


def nearest_distances(points: NDArray[np.intp], targets: NDArray[np.intp]) -> NDArray[np.float64]:
    """Euclidean distance in pixels from each point to the nearest target, float64 (n,).

    Args:
        points: Rows and columns, shape (2, n).
        targets: Rows and columns, shape (2, m), m at least 1.
    """
    tree = cKDTree(targets.T, balanced_tree=False, compact_nodes=False)  # built once, asked once
    distances: NDArray[np.float64] = tree.query(points.T)[0]
    return distances


def _percentile95(values: NDArray[np.float64]) -> float:
    """As ``numpy.percentile(values, 95)``, at a tenth of the time where values are few."""
    place = 0.95 * (len(values) - 1)
    low = int(place)
    ordered = np.sort(values)
    above = ordered[min(low + 1, len(values) - 1)]
    return float(ordered[low] + (place - low) * (above - ordered[low]))
