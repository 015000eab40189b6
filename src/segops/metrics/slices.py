"""How well a model does on parts of a split: by size and place of objects, and by scene.

An object is an 8-connected component of one class of the truth other than background, after void is
left out. Its size follows COCO: small under 32² pixels, large from 96² on. The mIoU of a kind of
scene is over its images, from one confusion matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.metrics.iou import class_pixels, miou

Mask = NDArray[np.uint8]

SMALL = 32**2
LARGE = 96**2
EDGE = 5
"""The width of the strip of void that VOC draws around objects, along the image's edge as well."""
CROWD = 4
"""Objects from which on a scene is crowded."""
_SLICES = (
    ("object size", "small", "under 32² pixels"),
    ("object size", "medium", "32² to 96² pixels"),
    ("object size", "large", "96² pixels or more"),
    ("object place", "at the border", f"within {EDGE} pixels of the edge of the image"),
    ("object place", "inside", f"more than {EDGE} pixels from the edge of the image"),
    ("scene", "crowded", f"{CROWD} objects or more"),
    ("scene", "sparse", f"fewer than {CROWD} objects"),
)
_SCENES = 2
"""The last ones of the slices are of images; the others are of objects."""


class Objects(NamedTuple):
    """The objects of one image, in the order of their classes; each array has the shape (n,).

    Attributes:
        label: Class, int64.
        pixels: Size, int64.
        found: Pixels predicted as that class, int64.
        at_edge: Whether it comes within `EDGE` pixels of the image's edge, bool.
    """

    label: NDArray[np.int64]
    pixels: NDArray[np.int64]
    found: NDArray[np.int64]
    at_edge: NDArray[np.bool_]


def find_objects(
    truth: Mask, prediction: Mask, labels: Iterable[int], background: int | None = 0
) -> Objects:
    """The objects of an image.

    Args:
        truth: uint8 (H, W), class ids and 255 for void.
        prediction: uint8 (H, W).
        labels: The classes that occur in the truth.
        background: The class that is background, which is passed over; None: none is.
    """
    objects = [_components(truth, prediction, label) for label in labels if label != background]
    label, pixels, found, at_edge = np.concatenate([np.zeros((0, 4), np.int64), *objects]).T
    return Objects(label, pixels, found, at_edge.astype(np.bool_))


def _components(truth: Mask, prediction: Mask, label: int) -> NDArray[np.int64]:
    """The columns of `Objects`, shape (n, 4), of the objects of a class."""
    here = (truth == label).view(np.uint8)
    left, top, width, height = cv2.boundingRect(here)
    part = np.s_[top : top + height, left : left + width]
    count, components, boxes, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(here[part]), connectivity=8
    )
    found = np.bincount(components[prediction[part] == label], minlength=count)[1:]
    x, y, across, down, pixels = boxes[1:].T
    x, y = x + left, y + top
    beside, below = truth.shape[1] - (x + across), truth.shape[0] - (y + down)
    at_edge = np.min([x, y, beside, below], axis=0) <= EDGE
    return np.column_stack([np.full(count - 1, label), pixels, found, at_edge])


def _members(objects: Objects) -> NDArray[np.bool_]:
    """Which of an image's objects belong to each slice, bool (slices, n)."""
    small, large = objects.pixels < SMALL, objects.pixels >= LARGE
    sparse = np.full(small.shape, small.size < CROWD)
    return np.array(
        [small, ~(small | large), large, objects.at_edge, ~objects.at_edge, ~sparse, sparse]
    )


def slice_pixels(objects: Objects, confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of one image in each slice, int64 (slices,): of its objects, of a scene all labelled.

    `confusion` is the image's confusion matrix, int64 (C, C).
    """
    pixels: NDArray[np.int64] = _members(objects) @ objects.pixels
    scene = int(objects.pixels.size < CROWD)
    pixels[-_SCENES:] = 0
    pixels[-_SCENES + scene] = confusion.sum()
    return pixels


class Slices:
    """Adds up the objects and scenes of images."""

    def __init__(self, classes: int) -> None:
        # A row a slice: objects, their pixels, found pixels, found objects.
        self._counts = np.zeros((len(_SLICES), 4), np.int64)
        self._images = np.zeros(len(_SLICES), np.int64)
        self._confusions = np.zeros((_SCENES, classes, classes), np.int64)

    def add(self, objects: Objects, confusion: NDArray[np.int64]) -> None:
        """Add those of one image; one without a labelled pixel is no scene."""
        if not confusion.any():
            return
        members = _members(objects)
        found = 2 * objects.found >= objects.pixels
        self._counts += members @ np.stack(
            [np.ones_like(objects.pixels), objects.pixels, objects.found, found], axis=1
        )
        scene = int(objects.pixels.size < CROWD)
        self._images[:-_SCENES] += members[:-_SCENES].any(axis=1)
        self._images[-_SCENES + scene] += 1  # a scene may have no object
        self._confusions[scene] += confusion

    def summary(self) -> list[dict[str, Any]]:
        """A row a slice, ready for JSON.

        Each has `group`, `name`, `definition`, `objects`, `images` (that hold such objects, or of
        such scenes), `pixels`, `recall` (share of the objects' pixels that are found), `found`
        (share of the objects with at least half their pixels found) and `miou` (of scenes only).
        What is undefined is None.
        """
        rows = []
        for index, (group, name, definition) in enumerate(_SLICES):
            objects, pixels, found_pixels, found_objects = self._counts[index].tolist()
            rows.append(
                {
                    "group": group,
                    "name": name,
                    "definition": definition,
                    "objects": objects,
                    "images": int(self._images[index]),
                    "pixels": pixels,
                    "recall": found_pixels / pixels if pixels else None,
                    "found": found_objects / objects if objects else None,
                    "miou": self._miou(index - len(_SLICES) + _SCENES),
                }
            )
        return rows

    def _miou(self, scene: int) -> float | None:
        value = miou(*class_pixels(self._confusions[scene])) if scene >= 0 else math.nan
        return None if math.isnan(value) else float(value)
