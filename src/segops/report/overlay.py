"""Masks shown over photographs."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID, palette

VOID_LIGHT = (236, 236, 236)
VOID_DARK = (120, 120, 120)
_STRIPE = 4
_INTERIOR = 7


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], alpha: float = 0.5
) -> NDArray[np.uint8]:
    """Lay a mask over its image in VOC's colours.

    Background stays as it is, classes get a tint and a light outline, void is light grey where it
    is a thin border and striped where it is an area.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class ids and 255 for void.
        alpha: Weight of the classes' colours, in [0, 1].

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {mask.shape} differ in size")
    weights = np.full(256, round(alpha * 256), dtype=np.uint16)
    weights[0] = 0
    weights[VOID] = 218
    weight = weights[mask][..., None]
    blended = ((image * (256 - weight) + colours(mask) * weight) >> 8).astype(np.uint8)
    edge = outline(mask)
    blended[edge] = outline_colours()[mask[edge]]
    return blended


def outline_colours() -> NDArray[np.uint8]:
    """Colour of each class's outline, uint8 (256, 3), RGB.

    Half way to white, so that VOC's dark colours show on dark photographs.
    """
    return palette() // 2 + 127


def colours(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask in VOC's colours, void in grey: light where it is thin, striped where it is an area.

    Args:
        mask: uint8 (H, W), class ids and 255 for void.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    table = palette()
    table[VOID] = VOID_LIGHT
    shown = table[mask]
    shown[void_stripes(mask)] = VOID_DARK
    return shown


def void_stripes(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where void is an area and not a thin border: every other stripe of it, bool (H, W)."""
    void = (mask == VOID).astype(np.uint8)
    if not void.any():
        return np.zeros(mask.shape, dtype=bool)
    area = cv2.erode(void, np.ones((_INTERIOR, _INTERIOR), np.uint8), borderValue=1)
    diagonal = np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1]))
    stripes: NDArray[np.bool_] = (area == 1) & (diagonal // _STRIPE % 2 == 0)
    return stripes


def present(masks: Iterable[NDArray[np.uint8]]) -> list[int]:
    """The ids that occur in any of the masks, ascending (255, void, comes last)."""
    found = np.zeros(256, dtype=bool)
    for mask in masks:
        found |= np.bincount(mask.ravel(), minlength=256) > 0
    return [int(index) for index in np.flatnonzero(found)]


def css_colour(index: int) -> str:
    """The colour of a class id on the pages, as CSS writes it."""
    red, green, blue = VOID_LIGHT if index == VOID else palette()[index]
    return f"#{red:02x}{green:02x}{blue:02x}"


def outline(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a class beside another class or background; void marks its borders itself.

    Args:
        mask: uint8 (H, W), class ids and 255 for void.

    Returns:
        bool (H, W).
    """
    edge = np.zeros(mask.shape, dtype=bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        apart = (mask[one] != mask[other]) & (mask[one] != VOID) & (mask[other] != VOID)
        edge[one] |= apart
        edge[other] |= apart
    edge &= mask != 0
    return edge
