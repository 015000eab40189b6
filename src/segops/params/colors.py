"""The colours that classes get where ``params.yaml`` gives none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOC_CLASSES, VOID, palette

RGB = tuple[int, int, int]
Floats = NDArray[np.float64]

BLACK = (0, 0, 0)
VOID_LIGHT, VOID_DARK = (236, 236, 236), (120, 120, 120)
"""How pages draw void; no class looks like it."""
_LEVELS = (range(0, 256, 51), range(17, 256, 34))
"""Values of a channel, for two grids of colours of which one lies between the other's."""
_DARKEST, _LIGHTEST = 25, 92
"""Bounds of the lightness L*, so that a colour shows on black and on white."""

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE TVCG 15(6), 2009, severity 1; for linear RGB.
NORMAL = np.eye(3)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
     [-0.003882, -0.048116, 1.051998]]
)  # fmt: skip
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
     [-0.011820, 0.042940, 0.968881]]
)  # fmt: skip

_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


def default_colors(names: Sequence[str], background: int | None) -> tuple[RGB, ...]:
    """A colour for each class: VOC's for classes of VOC, else black for background and a palette.

    The palette is one for all data sets: the first colours are the furthest apart.

    Args:
        names: The names in id order.
        background: The id of the class that is background; None: none is.
    """
    if set(names) <= set(VOC_CLASSES):
        voc = [(int(r), int(g), int(b)) for r, g, b in palette()]
        return tuple(voc[VOC_CLASSES.index(name)] for name in names)
    colors = iter(_distinct_colors())
    return tuple(BLACK if label == background else next(colors) for label in range(len(names)))


@cache
def _distinct_colors() -> tuple[RGB, ...]:
    """255 colours, each the one furthest from all before it, from black and from void's greys.

    The distance of two colours is the smallest in CIELAB for normal sight, protanopia and
    deuteranopia.

    Source:
        Glasbey, van der Heijden, Toh, Gray, "Colour Displays for Categorical Images", Color
        Research and Application 32(4), 2007: the sequential search in CIELAB; without seeds, and
        with the colour-blind's distances.
    """
    grid = np.vstack([list(product(levels, repeat=3)) for levels in _LEVELS])
    lightness = lab(grid)[:, 0]
    grid = grid[(lightness >= _DARKEST) & (lightness <= _LIGHTEST)]
    sights = (NORMAL, PROTANOPIA, DEUTERANOPIA)
    seen = [lab(grid, sight) for sight in sights]
    nearest = np.full(len(grid), np.inf)

    def keep_away(color: Sequence[int]) -> None:
        for points, sight in zip(seen, sights, strict=True):
            distance = np.linalg.norm(points - lab(np.array([color]), sight), axis=1)
            np.minimum(nearest, distance, out=nearest)

    for color in (BLACK, VOID_LIGHT, VOID_DARK):
        keep_away(color)
    chosen: list[RGB] = []
    for _ in range(VOID):
        # Rounded, so that the last bits of a machine's arithmetic decide nothing.
        red, green, blue = grid[nearest.round(3).argmax()].tolist()
        chosen.append((red, green, blue))
        keep_away(chosen[-1])
    return tuple(chosen)


def lab(colors: NDArray[np.integer], sight: Floats = NORMAL) -> Floats:
    """CIELAB of sRGB colours (n, 3) in 0..255, for the white of D65, as float64 (n, 3).

    `sight` is a matrix (3, 3) of what remains of linear RGB in a deficiency of colour vision.
    """
    value = colors / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ sight.T).clip(0, 1) @ _XYZ.T / _XYZ.sum(axis=1)
    cube = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = cube.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
