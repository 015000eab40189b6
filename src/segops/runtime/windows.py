"""Predicts an image in overlapping windows and blends the predictions in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays

Window = Callable[[slice, slice], Any]
"""Probabilities float32 (C, h, w) of a window, by its rows and columns; an array of its own."""

Strip = tuple[slice, slice, Any]
"""Rows, columns and probabilities float32 (C, h, w) of a finished part of an image."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows along a side, all in pixels; `overlap` as of :func:`blend`.

    All windows have the same size: the last window is moved inward to end with the side. A side no
    longer than the window has a single window.
    """
    if length <= window:
        return [0]
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def weights(length: int) -> NDArray[np.float32]:
    """Weights of a window's pixels along one side: a Hann window between the pixels' edges.

    They fall towards the window's border, where a network has the least context, and the weights of
    two neighbours that overlap by half sum to 1. No weight is 0, so that a pixel in a single window
    keeps its prediction. float32 (length,), above 0, at most 1.

    Source:
        Pielawski, Wählby: Introducing Hann windows for reducing edge-effects in patch-based image
        segmentation, PLOS ONE 15(3), 2020; shifted by half a pixel.
    """
    middles = np.arange(length) + 0.5
    found: NDArray[np.float32] = np.square(np.sin(np.pi / length * middles)).astype(np.float32)
    return found


def blend(
    size: tuple[int, int],
    window: tuple[int, int],
    overlap: float,
    predict: Window,
    arrays: Arrays,
) -> Iterator[Strip]:
    """Predict an image in windows; overlapping windows are averaged by their weights.

    Windows are predicted strip by strip along an axis, and pixels that no later window covers are
    yielded at once. Memory holds a single strip of probabilities: C times the window's height times
    the image's width, or C times the image's height times the window's width if that is less.

    Args:
        size: Height and width of the image, in pixels.
        window: Height and width of a window; a longer one is cut to the image.
        overlap: Share of a window that its neighbour also covers, 0..0.9.
        predict: Called once for each window.
        arrays: The library of the arrays that `predict` returns.

    Yields:
        Parts that cover the image once; an array is valid until the next part is requested.
    """
    height, width = size
    window_height, window_width = min(window[0], height), min(window[1], width)
    if window_height * width <= height * window_width:
        yield from _downwards(size, (window_height, window_width), overlap, predict, arrays)
        return

    def turned(rows: slice, columns: slice) -> Any:
        return predict(columns, rows).swapaxes(1, 2)

    for columns, rows, probabilities in _downwards(
        (width, height), (window_width, window_height), overlap, turned, arrays
    ):
        yield rows, columns, probabilities.swapaxes(1, 2)


def _downwards(
    size: tuple[int, int],
    window: tuple[int, int],
    overlap: float,
    predict: Window,
    arrays: Arrays,
) -> Iterator[Strip]:
    (height, width), (window_height, window_width) = size, window
    tops = starts(height, window_height, overlap)
    lefts = starts(width, window_width, overlap)
    sides = weights(window_height), weights(window_width)
    down, across = map(arrays.send, sides)
    # Weights are products over a grid of windows, and so are their sums.
    total_down = arrays.send(_totals(height, tops, sides[0]))
    total_across = arrays.send(_totals(width, lefts, sides[1]))
    strip: Any = None
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            columns = slice(left, left + window_width)
            found = predict(slice(top, top + window_height), columns)
            found *= down[:, None] * across
            if strip is None:
                strip = arrays.zeros((found.shape[0], window_height, width))
            for inside, place in _ring(top, top + window_height, window_height):
                strip[:, place, columns] += found[:, inside.start - top : inside.stop - top]
        assert strip is not None
        for rows, place in _ring(top, following, window_height):
            part = strip[:, place]
            part /= total_down[rows, None] * total_across
            yield rows, slice(0, width), part
            part[...] = 0


def _totals(length: int, begins: Sequence[int], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the windows' weights at each pixel of a side, float32 (length,)."""
    total = np.zeros(length, np.float32)
    for begin in begins:
        total[begin : begin + len(weight)] += weight
    return total


def _ring(start: int, stop: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the image, and their place in a ring buffer of `length` rows.

    The rows, at most `length`, are yielded in one part, or in two parts around the buffer's end.
    """
    while start < stop:
        place = start % length
        count = min(stop - start, length - place)
        yield slice(start, start + count), slice(place, place + count)
        start += count
