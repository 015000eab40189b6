"""Masks and activation maps over photographs, and the colours of classes and kinds of error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.params.colors import VOID_DARK, VOID_LIGHT
from segops.runtime.classes import VOC, VOID, Classes, hexadecimal

# Dark violet over red and orange to pale yellow: lightness rises all the way.
HEAT = ((40, 11, 84), (122, 28, 109), (203, 65, 73), (247, 140, 20), (252, 240, 140))
_OPAQUE_FROM = 0.6
"""Activation from which the colours are as opaque as they get."""
_STRIPE = 4
_INTERIOR = 7


class ErrorKind(NamedTuple):
    """How pages name and draw a kind of error; the colour is as CSS writes it."""

    name: str
    colour: str
    meaning: str


# In the order of segops.metrics.wrong_pixels.KINDS: a map of kinds holds an index into this plus 1.
# The colours differ in lightness too, for the colour-blind.
ERROR_KINDS = (
    ErrorKind("missed", "#e5383b", "a class is there, and {background} was predicted"),
    ErrorKind("false alarm", "#ffc300", "{background} is there, and a class was predicted"),
    ErrorKind("confusion", "#a63cf0", "a class is there, and another class was predicted"),
    ErrorKind(
        "boundary",
        "#19a7f0",
        "none of these: the contour of both classes was found and lies a little off",
    ),
)


OF_BACKGROUND = ("missed", "false alarm")
"""The kinds of error that need a class that is background."""


def error_kinds(background: str | None) -> list[ErrorKind]:
    """The kinds of error that there are where this class is background; None: no class is."""
    return [
        kind._replace(meaning=kind.meaning.replace("{background}", background or ""))
        for kind in ERROR_KINDS
        if background is not None or kind.name not in OF_BACKGROUND
    ]


def overlay(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    classes: Classes = VOC,
    alpha: float = 0.5,
) -> NDArray[np.uint8]:
    """Lay a mask over its image, uint8 (H, W, 3), RGB, in the classes' colours.

    Background stays as it is, classes get a tint of weight `alpha`, in [0, 1], and a light outline,
    void is light grey where it is a thin border and striped where it is an area.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {mask.shape} differ in size")
    weights = np.full(256, round(alpha * 256), dtype=np.uint16)
    if classes.background is not None:
        weights[classes.background] = 0
    weights[VOID] = 218
    weight = weights[mask][..., None]
    blended = ((image * (256 - weight) + colours(mask, classes) * weight) >> 8).astype(np.uint8)
    edge = outline(mask, classes.background)
    blended[edge] = outline_colours(classes)[mask[edge]]
    return blended


def heat_colours(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour of each activation in 0..1, float64 (n, 3), RGB, 0..255."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(levels, stops, channel) for channel in zip(*HEAT, strict=True)], 1)


def heat_overlay(
    image: NDArray[np.uint8], activation: NDArray[np.float32], alpha: float = 0.7
) -> NDArray[np.uint8]:
    """Lay a class activation map over its image, uint8 (H, W, 3), RGB.

    Zero is transparent. The higher the activation, the more opaque and the lighter its colour, so
    that it reads without colour vision too.

    Args:
        image: uint8 (H, W, 3), RGB.
        activation: float (H, W) in 0..1, as :func:`segops.predict.explain.explain` returns it.
        alpha: Largest weight of the colours, in 0..1.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != activation.shape:
        raise ValueError(
            f"image {image.shape[:2]} and activation {activation.shape} differ in size"
        )
    levels = np.linspace(0, 1, 256)
    level = np.rint(255 * activation.clip(0, 1)).astype(np.uint8)
    weight = (alpha * np.minimum(levels / _OPAQUE_FROM, 1))[level][..., None]
    blended = image * (1 - weight) + heat_colours(levels)[level] * weight
    shown: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    return shown


def outline_colours(classes: Classes = VOC) -> NDArray[np.uint8]:
    """Colour of each class's outline, uint8 (256, 3), RGB.

    Half way to white, so that dark colours show on dark photographs.
    """
    return classes.palette() // 2 + 127


def colours(mask: NDArray[np.uint8], classes: Classes = VOC) -> NDArray[np.uint8]:
    """A mask in the classes' colours, uint8 (H, W, 3), from class ids and 255 for void.

    Void is grey: light where it is thin, striped where it is an area.
    """
    table = classes.palette()
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


def css_colour(index: int, classes: Classes = VOC) -> str:
    """The colour of a class id on the pages, as CSS writes it."""
    return hexadecimal(VOID_LIGHT if index == VOID else classes.palette()[index])


def legend(ids: Iterable[int], classes: Classes) -> list[dict[str, Any]]:
    """Entries for the pages' legend: of every id its `name`, its `colour` as CSS, and `void`."""
    names = dict(enumerate(classes.names)) | {VOID: "void"}
    return [
        {
            "name": names.get(one, f"id {one}"),
            "colour": css_colour(one, classes),
            "void": one == VOID,
        }
        for one in ids
    ]


def outline(mask: NDArray[np.uint8], background: int | None = 0) -> NDArray[np.bool_]:
    """Pixels of a class beside another class or background, bool (H, W).

    Background has no outline. Void marks its borders itself.
    """
    edge = np.zeros(mask.shape, dtype=bool)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        apart = (mask[one] != mask[other]) & (mask[one] != VOID) & (mask[other] != VOID)
        edge[one] |= apart
        edge[other] |= apart
    if background is not None:
        edge &= mask != background
    return edge
