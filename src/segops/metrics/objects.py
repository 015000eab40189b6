"""Objects of the truth, and how many of their pixels are predicted right.

An object is an 8-connected component of one class of the truth other than background, after void is
left out. Its size follows COCO: small under 32² pixels, large from 96² on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.metrics.wrong_pixels import BACKGROUND

Mask = NDArray[np.uint8]

SMALL = 32**2
LARGE = 96**2
EDGE = 5
"""The width of the strip of void that VOC draws around objects, along the image's edge as well."""
CROWD = 4
"""Objects from which on a scene is crowded."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, in the order of their classes.

    Attributes:
        label: Class, int64 (n,).
        pixels: Size, int64 (n,).
        found: Pixels predicted as that class, int64 (n,).
        at_edge: Whether it comes within `EDGE` pixels of the image's edge, bool (n,).
    """

    label: NDArray[np.int64]
    pixels: NDArray[np.int64]
    found: NDArray[np.int64]
    at_edge: NDArray[np.bool_]


def find_objects(truth: Mask, prediction: Mask, labels: Iterable[int]) -> Objects:
    """The objects of an image.

    Args:
        truth: uint8 (H, W), 0 for background and 255 for void.
        prediction: uint8 (H, W).
        labels: The classes that occur in the truth; background is passed over.
    """
    rows: list[tuple[int, int, int, bool]] = []
    for label in labels:
        if label != BACKGROUND:
            rows += _components(truth, prediction, label)
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Objects(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.bool_))


def _components(truth: Mask, prediction: Mask, label: int) -> list[tuple[int, int, int, bool]]:
    here = (truth == label).view(np.uint8)
    left, top, width, height = cv2.boundingRect(here)
    part = np.s_[top : top + height, left : left + width]
    count, components, boxes, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(here[part]), connectivity=8
    )
    hit = components[prediction[part] == label]
    found = np.bincount(hit, minlength=count)
    rows = []
    for index in range(1, count):
        x, y, w, h, pixels = (int(value) for value in boxes[index])
        below, beside = truth.shape[0] - (top + y + h), truth.shape[1] - (left + x + w)
        at_edge = min(left + x, top + y, beside, below) <= EDGE
        rows.append((label, pixels, int(found[index]), at_edge))
    return rows
