"""What `segops predict --explain` shows for an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.errors import SegopsError

from .bundle import BundledPredictor

AUTO = "auto"
BACKGROUND = 0

LARGEST = 4_000_000
"""Pixels of the image that is explained: the network runs over it whole and keeps what it did."""


def require_class(name: str | None, class_names: Sequence[str]) -> None:
    """Check what is to be explained.

    Raises:
        SegopsError: It is neither a class nor `auto`.
    """
    if name is not None and name != AUTO and name not in class_names:
        raise SegopsError(
            f"--explain {name}: the model has no such class. Expected {AUTO} or one of "
            f"{', '.join(class_names)}."
        )


def view(
    predictor: BundledPredictor, image: NDArray[np.uint8], mask: NDArray[np.uint8], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Where the network looked for a class, over the pixels predicted as it.

    Args:
        predictor: The model.
        image: uint8 (H, W, 3), RGB. One of more than `LARGEST` pixels is made smaller.
        mask: uint8 (H, W), its prediction.
        name: The class, or `auto`: the largest one in the mask that is not background.

    Returns:
        The image (h, w, 3) and the heat, float32 (h, w) in 0..1; None where `auto` finds no class.

    Raises:
        SegopsError: The network has no layer to explain it by.
    """
    from .explain import explain

    class_id = _class_id(predictor.class_names, mask, name)
    if class_id is None:
        return None
    image, region = _shrunk(image, mask == class_id)
    # Of a class that was not predicted anywhere, the whole image is asked.
    region = region if region.any() else np.ones_like(region)
    return image, explain(predictor, image, class_id, region)


def _class_id(class_names: Sequence[str], mask: NDArray[np.uint8], name: str) -> int | None:
    if name in class_names:
        return class_names.index(name)
    counts = np.bincount(mask.ravel(), minlength=len(class_names))
    counts[BACKGROUND] = 0
    return int(counts.argmax()) if counts.any() else None


def _shrunk(
    image: NDArray[np.uint8], region: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    height, width = region.shape
    factor = (LARGEST / (height * width)) ** 0.5
    if factor >= 1:
        return image, region
    size = max(1, int(width * factor)), max(1, int(height * factor))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    inside = Image.fromarray(region).resize(size, Image.Resampling.NEAREST)
    return np.array(small), np.array(inside)
