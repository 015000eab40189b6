"""Predicts an image in overlapping windows and blends the predictions in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Window = Callable[[slice, slice], Tensor]
"""Probabilities float32 (C, h, w) of a window, by its rows and columns; a tensor of its own."""

Strip = tuple[slice, slice, Tensor]
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


def weights(length: int, device: torch.device | str = "cpu") -> Tensor:
    """Weights of a window's pixels along one side: a Hann window between the pixels' edges.

    They fall towards the window's border, where a network has the least context, and the weights of
    two neighbours that overlap by half sum to 1. No weight is 0, so that a pixel in a single window
    keeps its prediction. float32 (length,), above 0, at most 1.

    Source:
        Pielawski, Wählby: Introducing Hann windows for reducing edge-effects in patch-based image
        segmentation, PLOS ONE 15(3), 2020; shifted by half a pixel.
    """
    middles = torch.arange(length, device=device, dtype=torch.float64) + 0.5
    return torch.sin(torch.pi / length * middles).square().float()


def blend(
    size: tuple[int, int],
    window: tuple[int, int],
    overlap: float,
    predict: Window,
    device: torch.device | str = "cpu",
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
        device: Device of the tensors that `predict` returns.

    Yields:
        Parts that cover the image once; a tensor is valid until the next part is requested.
    """
    height, width = size
    window_height, window_width = min(window[0], height), min(window[1], width)
    if window_height * width <= height * window_width:
        yield from _downwards(size, (window_height, window_width), overlap, predict, device)
        return

    def turned(rows: slice, columns: slice) -> Tensor:
        return predict(columns, rows).transpose(1, 2)

    for columns, rows, probabilities in _downwards(
        (width, height), (window_width, window_height), overlap, turned, device
    ):
        yield rows, columns, probabilities.transpose(1, 2)


def _downwards(
    size: tuple[int, int],
    window: tuple[int, int],
    overlap: float,
    predict: Window,
    device: torch.device | str,
) -> Iterator[Strip]:
    (height, width), (window_height, window_width) = size, window
    tops = starts(height, window_height, overlap)
    lefts = starts(width, window_width, overlap)
    down, across = weights(window_height, device), weights(window_width, device)
    # Weights are products over a grid of windows, and so are their sums.
    total_down = _totals(height, tops, down)
    total_across = _totals(width, lefts, across)
    strip: Tensor | None = None
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            columns = slice(left, left + window_width)
            found = predict(slice(top, top + window_height), columns)
            found.mul_(down[:, None] * across)
            if strip is None:
                strip = found.new_zeros((found.shape[0], window_height, width))
            for inside, place in _ring(top, top + window_height, window_height):
                strip[:, place, columns] += found[:, inside.start - top : inside.stop - top]
        assert strip is not None
        for rows, place in _ring(top, following, window_height):
            part = strip[:, place]
            yield rows, slice(0, width), part.div_(total_down[rows, None] * total_across)
            part.zero_()


def _totals(length: int, begins: Sequence[int], weight: Tensor) -> Tensor:
    """Sum of the windows' weights at each pixel of a side, float32 (length,)."""
    total = weight.new_zeros(length)
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
