"""How well a model does on parts of a split: by size and place of objects, and by scene.

Of objects: how many there are, how many of their pixels are found, and how many objects have at
least half of their pixels found. Of scenes: the same for their objects, and the mIoU over their
images, from one confusion matrix.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.metrics.iou import class_pixels, miou
from segops.metrics.objects import CROWD, EDGE, LARGE, SMALL, Objects

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


class Slices:
    """Adds up the objects and scenes of images.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.objects = np.zeros(len(_SLICES), np.int64)
        self.images = np.zeros(len(_SLICES), np.int64)
        self.pixels = np.zeros(len(_SLICES), np.int64)
        self.found_pixels = np.zeros(len(_SLICES), np.int64)
        self.found_objects = np.zeros(len(_SLICES), np.int64)
        self.confusions = np.zeros((_SCENES, classes, classes), np.int64)

    def add(self, objects: Objects, confusion: NDArray[np.int64]) -> None:
        """Add those of one image; one without a labelled pixel is no scene."""
        if not confusion.any():
            return
        count = objects.pixels.size
        crowded = count >= CROWD
        members = np.zeros((len(_SLICES), count), np.bool_)
        members[0] = objects.pixels < SMALL
        members[2] = objects.pixels >= LARGE
        members[1] = ~(members[0] | members[2])
        members[3] = objects.at_edge
        members[4] = ~objects.at_edge
        members[5] = crowded
        members[6] = not crowded
        self.objects += members.sum(axis=1)
        self.pixels += members @ objects.pixels
        self.found_pixels += members @ objects.found
        self.found_objects += members @ (2 * objects.found >= objects.pixels).astype(np.int64)
        self.images[:-_SCENES] += members[:-_SCENES].any(axis=1)
        scene = 0 if crowded else 1
        self.images[-_SCENES + scene] += 1
        self.confusions[scene] += confusion

    def summary(self) -> list[dict[str, Any]]:
        """A row a slice, ready for JSON.

        Each has `group`, `name`, `definition`, `objects`, `images` (that hold such objects, or of
        such scenes), `pixels`, `recall` (share of the objects' pixels that are found), `found`
        (share of the objects with at least half their pixels found) and `miou` (of scenes only).
        What is undefined is None.
        """
        return [
            {
                "group": group,
                "name": name,
                "definition": definition,
                "objects": int(self.objects[index]),
                "images": int(self.images[index]),
                "pixels": int(self.pixels[index]),
                "recall": _share(self.found_pixels[index], self.pixels[index]),
                "found": _share(self.found_objects[index], self.objects[index]),
                "miou": self._miou(index - len(_SLICES) + _SCENES),
            }
            for index, (group, name, definition) in enumerate(_SLICES)
        ]

    def _miou(self, scene: int) -> float | None:
        value = miou(*class_pixels(self.confusions[scene])) if scene >= 0 else math.nan
        return None if math.isnan(value) else float(value)


def _share(part: np.int64, whole: np.int64) -> float | None:
    return int(part) / int(whole) if whole else None
