"""A class activation map shown over its photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segops.report.layers import HEAT

_OPAQUE_FROM = 0.6
"""Activation from which the colours are as opaque as they get."""


def heat_overlay(
    image: NDArray[np.uint8], activation: NDArray[np.float32], alpha: float = 0.7
) -> NDArray[np.uint8]:
    """Lay a class activation map over its image.

    Nothing is transparent; the stronger a place, the more opaque and the lighter its colour, from
    violet over red and orange to pale yellow, so that it reads without colour vision too.

    Args:
        image: uint8 (H, W, 3), RGB.
        activation: float (H, W) in 0..1, as :func:`segops.predict.explain.explain` returns it.
        alpha: Largest weight of the colours, in 0..1.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != activation.shape:
        raise ValueError(
            f"image {image.shape[:2]} and activation {activation.shape} differ in size"
        )
    levels = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(HEAT))
    table = np.stack([np.interp(levels, stops, channel) for channel in zip(*HEAT, strict=True)], 1)
    level = np.rint(255 * activation.clip(0, 1)).astype(np.uint8)
    weight = (alpha * np.minimum(levels / _OPAQUE_FROM, 1))[level][..., None]
    blended = image * (1 - weight) + table[level] * weight
    shown: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    return shown
