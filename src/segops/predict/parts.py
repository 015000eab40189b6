"""Divides a large image into parts that are predicted one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LARGEST = 4_000_000
"""Pixels of the largest image that is predicted in one piece, as `predict.whole_pixels` has it
unless it is set."""

SIDE = 1024
"""Side, in pixels, of the parts of a larger image; the last ones are smaller."""

MARGIN = 256
"""Pixels around a part that are predicted with it, so that its border has its surroundings."""

Place = tuple[slice, slice]
"""Rows and columns."""


class Part(NamedTuple):
    """A part of an image.

    Attributes:
        place: Its place in the image.
        around: The place with the margin.
        within: Its place in the prediction of `around`.
    """

    place: Place
    around: Place
    within: Place


def parts(height: int, width: int) -> Iterator[Part]:
    """The parts of an image, row by row; one of at most `LARGEST` pixels is a part itself."""
    side = SIDE if height * width > LARGEST else max(height, width)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = _along(top, side, height), _along(left, side, width)
            yield Part(*zip(rows, columns, strict=True))


def _along(start: int, side: int, length: int) -> tuple[slice, slice, slice]:
    """The three slices of a part along one axis."""
    stop, first = min(start + side, length), max(0, start - MARGIN)
    return (
        slice(start, stop),
        slice(first, min(stop + MARGIN, length)),
        slice(start - first, stop - first),
    )
