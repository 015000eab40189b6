"""Small pictures of one kind, and ways in which a camera, the light or the scene changes them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def ordinary(seed: int, height: int = 40, width: int = 56) -> Pixels:
    """Soft colours with a little structure, uint8 (height, width, 3)."""
    random = np.random.default_rng(seed)
    coarse, fine = (random.normal(0, deviation, (*size, 3)) for deviation, size in
                    ((35, (3, 4)), (14, (14, 20))))  # fmt: skip
    drawn = sum(cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC)
                for one in (coarse, fine))  # fmt: skip
    light = random.normal(125, 15)
    return np.asarray((drawn + light).clip(0, 255), np.uint8)


def night(image: Pixels) -> Pixels:
    return np.asarray(image * 0.35, np.uint8)


def blur(image: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.0), np.uint8)


def other_camera(image: Pixels) -> Pixels:
    noise = np.random.default_rng(int(image.sum())).normal(0, 8, image.shape)
    return np.asarray((image * [1.15, 1.0, 0.9] + noise).clip(0, 255), np.uint8)


def new_class(image: Pixels) -> Pixels:
    drawn = image.copy()
    drawn[10:30, 15:40] = np.where(np.indices((20, 25)).sum(axis=0)[..., None] % 6 < 3, 30, 225)
    return drawn


DRIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "night": night,
    "blur": blur,
    "other camera": other_camera,
    "new class": new_class,
}
