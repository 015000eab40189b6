"""What kind of error a wrong pixel is.

A pixel whose truth is not void and not what was predicted is of exactly one kind:

- `boundary`: a contour that lies a little off. Both classes meet here in the truth and in the
  prediction alike: the predicted class is true within the band's width of boundary IoU, and the
  true class is predicted within it. Such a pixel lies in the band along the truth's contour; an
  object that is missed altogether is not `boundary`, however small.
- `missed`: else, where an object was predicted as background.
- `false alarm`: else, where background was predicted as an object.
- `confusion`: else, where one object was predicted as another.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.metrics.boundary import band_width
from segops.voc.classes import VOID

Mask = NDArray[np.uint8]

KINDS = ("missed", "false alarm", "confusion", "boundary")
BACKGROUND = 0
_MISSED, _FALSE_ALARM, _CONFUSION, _BOUNDARY = (1 + index for index in range(len(KINDS)))


def find_errors(
    truth: Mask, filled: Mask, prediction: Mask
) -> tuple[Mask, list[tuple[int, str, int]]]:
    """The kind of each wrong pixel, and how many there are by class and kind.

    Args:
        truth: uint8 (H, W), 0 for background and 255 for void.
        filled: The same after :func:`segops.metrics.boundary.fill_void`.
        prediction: uint8 (H, W).

    Returns:
        uint8 (H, W), 0 where a pixel is right or void, else 1 + its kind's index in `KINDS`; and
        (class, kind, pixels), ascending, pixels above 0. Pixels belong to the truth's class, or to
        the predicted one where the truth is background.
    """
    wrong = truth != prediction
    wrong &= truth != VOID
    kinds = np.zeros(wrong.shape, np.uint8)
    places = np.flatnonzero(wrong)
    if not places.size:
        return kinds, []
    true, predicted = truth.reshape(-1).take(places), prediction.reshape(-1).take(places)
    found = np.full(places.shape, _CONFUSION, np.uint8)
    found[predicted == BACKGROUND] = _MISSED
    found[true == BACKGROUND] = _FALSE_ALARM
    side = 2 * band_width(*wrong.shape) + 1
    near = _near(filled, predicted, places, side) & _near(prediction, true, places, side)
    found[near] = _BOUNDARY
    kinds.reshape(-1)[places] = found
    return kinds, _rows(np.where(true == BACKGROUND, predicted, true), found)


def _rows(owner: Mask, found: Mask) -> list[tuple[int, str, int]]:
    counts = np.bincount(np.multiply(owner, len(KINDS), dtype=np.intp) + found - 1)
    return [
        (int(cell) // len(KINDS), KINDS[int(cell) % len(KINDS)], int(counts[cell]))
        for cell in np.flatnonzero(counts)
    ]


def _near(mask: Mask, labels: Mask, places: NDArray[np.intp], side: int) -> NDArray[np.bool_]:
    """Whether `labels[i]` occurs in `mask` in the square of `side` pixels around `places[i]`."""
    square = np.ones((side, side), np.uint8)
    near = np.zeros(places.shape, np.bool_)
    for label in np.flatnonzero(np.bincount(labels)):
        here = (mask == label).view(np.uint8)
        if not here.any():
            continue
        wanted = np.flatnonzero(labels == label)
        near[wanted] = cv2.dilate(here, square).reshape(-1).take(places[wanted]) != 0
    return near
