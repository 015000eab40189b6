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
from segops.metrics.confusion import joint_histogram
from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]

KINDS = ("missed", "false alarm", "confusion", "boundary")
_MISSED, _FALSE_ALARM, _CONFUSION, _BOUNDARY = (1 + index for index in range(len(KINDS)))


def find_errors(
    truth: Mask, filled: Mask, prediction: Mask, background: int | None = 0
) -> tuple[Mask, list[tuple[int, str, int]]]:
    """The kind of each wrong pixel, and how many there are by class and kind.

    Args:
        truth: uint8 (H, W), class ids and 255 for void.
        filled: The same after :func:`segops.metrics.boundary.fill_void`.
        prediction: uint8 (H, W), class ids below 255.
        background: The class that is background; None: every class is an object, and what is not
            `boundary` is `confusion`.

    Returns:
        uint8 (H, W), 0 where a pixel is right or void, else 1 + its kind's index in `KINDS`; and
        (class, kind, pixels), ascending, pixels above 0. Pixels belong to the truth's class, or to
        the predicted one where the truth is background.

    Raises:
        ValueError: Void is predicted where the truth is background.
    """
    wrong = truth != prediction
    wrong &= truth != VOID
    if not wrong.any():
        return np.zeros(wrong.shape, np.uint8), []
    owner = truth.copy()
    if background is not None:
        np.copyto(owner, prediction, where=truth == background)
    side = 2 * band_width(*wrong.shape) + 1
    near = _near(filled, prediction, wrong, side)
    near &= _near(prediction, truth, wrong, side)
    kinds = np.full(wrong.shape, _CONFUSION, np.uint8)
    if background is not None:
        np.copyto(kinds, _MISSED, where=prediction == background)
        np.copyto(kinds, _FALSE_ALARM, where=truth == background)
    np.copyto(kinds, _BOUNDARY, where=near)
    kinds *= wrong
    owner *= wrong
    return kinds, _rows(owner, kinds)


def _rows(owner: Mask, kinds: Mask) -> list[tuple[int, str, int]]:
    """Pixels by owner and kind, of the pixels that have a kind."""
    ids = max(int(owner.max()), len(KINDS)) + 1
    counts = joint_histogram(owner, kinds, ids)
    if counts is None:
        raise ValueError(f"prediction holds id {VOID}, which is void; expected class ids")
    counts = counts[1:, 2 : 2 + len(KINDS)]  # neither void nor right
    return [
        (int(label), KINDS[kind], int(counts[label, kind])) for label, kind in np.argwhere(counts)
    ]


def _near(mask: Mask, labels: Mask, wrong: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Where a pixel is wrong and its label in `labels` occurs in `mask` within the square."""
    square = np.ones((side, side), np.uint8)
    near = np.zeros(wrong.shape, np.bool_)
    occurring = cv2.calcHist([labels], [0], wrong.view(np.uint8), [256], [0, 256])
    for label in np.flatnonzero(occurring).astype(np.uint8):
        here = (mask == label).view(np.uint8)
        if not here.any():
            continue
        hit = cv2.dilate(here, square).view(np.bool_)
        hit &= labels == label
        near |= hit
    near &= wrong
    return near
