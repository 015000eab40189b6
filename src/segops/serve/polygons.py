"""The outlines of the regions of a mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import Classes
from segops.serve.errors import RequestError

MOST_POINTS = 200_000
"""Corners of all outlines of an image, so that a mask of noise gives no answer of 100 MB."""


def polygons(mask: NDArray[np.uint8], classes: Classes) -> list[dict[str, Any]]:
    """Return the outlines of every connected region of every class but the background.

    The corners of an outline are centres of pixels that belong to the region, as in labelme.

    Args:
        mask: uint8 (H, W), class ids.
        classes: The model's classes.

    Returns:
        Id and name of the class, `points` (the outer outline) and `holes`, each a list of corners
        [x, y] in pixels; (0, 0) is the upper left pixel.

    Raises:
        RequestError: There are more than `MOST_POINTS` corners.
    """
    found: list[dict[str, Any]] = []
    corners = 0
    for number in np.unique(mask).tolist():
        if number == classes.background or number >= len(classes.names):
            continue
        region = (mask == number).astype(np.uint8)
        outlines, tree = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        corners += sum(map(len, outlines))
        if corners > MOST_POINTS:
            raise RequestError(
                413,
                f"The regions of the mask have more than {MOST_POINTS:,} corners; ask for the mask "
                "in place of polygons.",
            )
        by_outline: dict[int, dict[str, Any]] = {}
        for index, (outline, (*_, parent)) in enumerate(zip(outlines, tree[0], strict=True)):
            points = outline[:, 0].tolist()
            if parent < 0:
                own = {"id": number, "name": classes.names[number], "points": points, "holes": []}
                by_outline[index] = own
        for outline, (*_, parent) in zip(outlines, tree[0], strict=True):
            if parent >= 0:
                by_outline[int(parent)]["holes"].append(outline[:, 0].tolist())
        found += by_outline.values()
    return found
