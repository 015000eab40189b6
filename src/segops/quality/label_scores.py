"""How likely the labels of an image are wrong, by what a model that did not see it predicts.

Pure functions on one image: a score of the whole image, and the segments that contradict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID
from segops.voc.histogram import count_ids

Mask = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

TEMPERATURE = 0.1
"""Of the softmin, as in the paper."""
LEAST_IOU = 0.25
"""A segment with less of an IoU than this contradicts the other mask."""
_AT_ONCE = 1 << 22
"""Pixels of a score that are looked at together, which bounds the memory."""
COVERED = 0.5
"""A labelled segment of which a listed predicted segment covers this share is not listed again."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A connected region where label and prediction contradict each other.

    Attributes:
        score: How sure the model is, 0..1: the mean over the segment of the probability of the
            predicted class. The higher, the likelier the label is wrong.
        given: The class that most of its pixels are labelled with.
        predicted: The class that most of its pixels are predicted as.
        box: Left, top, right and bottom, in pixels; right and bottom lie outside.
        pixels: Its labelled pixels.
    """

    score: float
    given: int
    predicted: int
    box: tuple[int, int, int, int]
    pixels: int


_ROW = np.dtype(",".join(["f8", "u1", "u1", "i4", "i4", "i4", "i4", "i4"]))
"""A segment: score, given, predicted, the four of the box, pixels."""


class Segments(Sequence[Segment]):
    """Segments in 30 bytes each, since an audit holds those of all its images."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._rows = np.array(
            [(one.score, one.given, one.predicted, *one.box, one.pixels) for one in segments], _ROW
        )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Segment]: ...
    def __getitem__(self, index: int | slice) -> Segment | list[Segment]:
        if isinstance(index, slice):
            return [_read(row) for row in self._rows[index]]
        return _read(self._rows[index])


def _read(row: Any) -> Segment:
    score, given, predicted, left, top, right, bottom, pixels = row.item()
    return Segment(score, given, predicted, (left, top, right, bottom), pixels)


Contradiction = tuple[Segment, NDArray[np.bool_]]
"""A segment, and which pixels of its box belong to it, bool (bottom - top, right - left)."""


def softmin(confidences: NDArray[np.floating]) -> float | None:
    """The label quality score of an image, 0..1; the lower, the likelier a label is wrong.

    The weighted mean of the confidences, with weights softmax((1 - confidence) / 0.1).

    Args:
        confidences: The probability of the given class at every labelled pixel, of any shape.

    Returns:
        The score; None without a labelled pixel.

    Source:
        Lad, Mueller: Estimating label quality and errors in semantic segmentation data via any
        model, 2023, section 3, "Softmin".
    """
    if not confidences.size:
        return None
    flat, least = confidences.ravel(), float(confidences.min())
    sums = np.zeros(2)
    for start in range(0, flat.size, _AT_ONCE):
        values = flat[start : start + _AT_ONCE].astype(np.float64)
        weights = np.exp((least - values) / TEMPERATURE)
        sums += (weights * values).sum(), weights.sum()
    return float(sums[0] / sums[1])


def segments(label: Mask, prediction: Mask, top: Probabilities) -> list[Contradiction]:
    """The segments of an image that contradict, the surest first.

    A predicted segment is a connected component of a predicted class, and contradicts where its
    IoU with the labelled components of that class that it touches is below 0.25: it is a false
    positive of the prediction, and a label error if the model is right. That finds objects without
    a label and of another label, not labels without an object; so the components of the label are
    taken in the same way, unless a predicted segment tells of them already. Void is in no
    component. A component without an interior pixel, which has all its eight neighbours in it, is
    noise of a contour and left out.

    Args:
        label: uint8 (H, W), class ids and 255 for void.
        prediction: uint8 (H, W), class ids.
        top: float32 (H, W), probability of the predicted class, 0..1.

    Source:
        Rottmann, Reese: Automated Detection of Label Errors in Semantic Segmentation Datasets via
        Deep Learning and Uncertainty Quantification, WACV 2023. There a trained meta classifier
        says how likely a false positive is right; here it is the mean probability, a baseline. The
        components of the label are an addition.
    """
    counted = label != VOID
    # The id of void marks what is in no component.
    given, predicted = label, np.where(counted, prediction, np.uint8(VOID))
    found = [_segment(region, given, predicted, top) for region in _contradicting(predicted, given)]
    listed = np.zeros(label.shape, np.bool_)
    for segment, pixels in found:
        listed[_place(segment.box)] |= pixels
    for box, inside in _contradicting(given, predicted):
        if listed[_place(box)][inside].mean() < COVERED:
            found.append(_segment((box, inside), given, predicted, top))
    found = [one for one in found if one[0].given != one[0].predicted]
    return sorted(found, key=lambda one: (-one[0].score, -one[0].pixels, one[0].box))


Box = tuple[int, int, int, int]
Region = tuple[Box, NDArray[np.bool_]]


def _contradicting(own: Mask, other: Mask) -> list[Region]:
    """The components of the classes in `own` that hardly overlap with their class in `other`."""
    return [
        region
        for class_id in np.flatnonzero(count_ids(own)[:VOID])
        for region in _of_class((own == class_id).view(np.uint8), other == class_id)
    ]


def _of_class(here: Mask, there: NDArray[np.bool_]) -> list[Region]:
    count, components, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
    interior = cv2.erode(here, np.ones((3, 3), np.uint8), borderValue=1).view(np.bool_)
    has_interior = np.zeros(count, np.bool_)
    has_interior[components[interior]] = True
    # Components of the other mask: the whole of each one that is touched counts for the union.
    _, pieces, others, _ = cv2.connectedComponentsWithStats(there.view(np.uint8), connectivity=8)
    both = there & here.view(np.bool_)
    pairs = np.stack([components[both], pieces[both]])
    shared = np.bincount(pairs[0], minlength=count)
    # Most pixels of a row have the pair of the pixel before, and sorting all of them takes minutes.
    pairs = np.unique(pairs[:, np.diff(pairs, axis=1, prepend=-1).any(axis=0)], axis=1)
    touched = np.zeros(count)
    np.add.at(touched, pairs[0], others[pairs[1], cv2.CC_STAT_AREA])
    areas = stats[:, cv2.CC_STAT_AREA]
    iou = shared / np.maximum(areas + touched - shared, 1)
    regions = []
    for number in np.flatnonzero(has_interior & (iou < LEAST_IOU)):
        if number == 0:  # all that is not of the class
            continue
        left, top, width, height = (int(value) for value in stats[number, :4])
        box = left, top, left + width, top + height
        regions.append((box, components[_place(box)] == number))
    return regions


def _segment(region: Region, given: Mask, predicted: Mask, top: Probabilities) -> Contradiction:
    box, inside = region
    place = _place(box)
    segment = Segment(
        score=float(top[place][inside].mean(dtype=np.float64)),
        given=_most(given[place][inside]),
        predicted=_most(predicted[place][inside]),
        box=box,
        pixels=int(np.count_nonzero(inside)),
    )
    return segment, inside


def _place(box: Box) -> tuple[slice, slice]:
    left, top, right, bottom = box
    return slice(top, bottom), slice(left, right)


def _most(ids: Mask) -> int:
    return int(np.bincount(ids).argmax())
