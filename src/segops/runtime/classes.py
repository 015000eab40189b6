"""The classes of PASCAL VOC and its palette."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""The id that marks pixels without a label. It is not a class: no loss, no metric counts it."""

VOC_CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Names in id order, as in the VOC2012 development kit (``VOCinit.m``)."""


def palette() -> NDArray[np.uint8]:
    """The VOC colour of every id.

    Returns:
        uint8 array of shape (256, 3), RGB. Id 0 is black, 255 is (224, 224, 192).

    Source:
        ``VOClabelcolormap.m`` of the VOC2012 development kit: bit `j` of an id, taken three at a
        time, becomes bit `7 - j // 3` of red, green and blue.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (ids >> (3 * bit + channel)) & 1
            colours[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    return colours
