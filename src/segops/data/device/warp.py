"""The affine map from stored images to crops, for a batch whose images differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segops.augment.geometry import Affine, Pixels

OUTSIDE = -9.0
"""A position that lies beyond any frame."""


class Sources(NamedTuple):
    """Parts of images of several sizes in one buffer, each in a frame of one pixel of padding.

    With the frame a position beyond the border needs no test: moved to the nearest pixel of the
    frame, it reads padding.

    Attributes:
        pixels: uint8 (P, C) of images, (P,) of masks: the framed parts, row by row.
        places: int64 (N, 3): first pixel of each part in `pixels`, and its height and width without
            the frame.
        maps: float64 (N, 6): the ``Affine`` from a crop's pixel to each part's, where positions
            count from the centre of the first pixel.
    """

    pixels: Tensor
    places: Tensor
    maps: Tensor


def framed(parts: Sequence[Pixels], maps: Sequence[Affine], fill: tuple[int, ...] | int) -> Sources:
    """Copy parts into one buffer.

    Args:
        parts: uint8 (h, w, C) of images, (h, w) of masks.
        maps: From the corner of a crop to the corner of each part.
        fill: Colour or id of the frames.
    """
    channels = parts[0].shape[2:]
    # The part of a crop that is all padding may have a width without a height.
    shapes = [part.shape[:2] if part.size else (0, 0) for part in parts]
    areas = [(height + 2) * (width + 2) for height, width in shapes]
    pixels = torch.empty((sum(areas), *channels), dtype=torch.uint8)
    places = []
    first = 0
    for part, (height, width), area in zip(parts, shapes, areas, strict=True):
        frame = pixels.numpy()[first : first + area].reshape(height + 2, width + 2, *channels)
        frame[0] = frame[-1] = fill
        frame[:, 0] = frame[:, -1] = fill
        if part.size:
            frame[1:-1, 1:-1] = part
        places.append((first, height, width))
        first += area
    centred = torch.tensor([*map(_from_centres, maps)], dtype=torch.float64)
    return Sources(pixels, torch.tensor(places), centred)


def bilinear(sources: Sources, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops of images, uint8 (N, h, w, C), on the device of `sources`.

    Args:
        sources: The parts of images.
        windows: int64 (N, 4): left, top, right and bottom of each crop beyond which is padding.
        size: Height and width of a crop, in pixels.
    """
    x, y = _positions(sources.maps, windows, size)
    left, top = x.floor(), y.floor()
    # Products and sums one after the other: a fused operation rounds differently at the end of a
    # row of vectors than within it, so a sample would depend on its place in the batch.
    right_share = (x - left).float().unsqueeze(-1)
    lower_share = (y - top).float().unsqueeze(-1)
    rows = []
    for row in (top, top + 1):
        first, second = (_at(sources, column, row).float() for column in (left, left + 1))
        rows.append(first * (1 - right_share) + second * right_share)
    mixed = rows[0] * (1 - lower_share) + rows[1] * lower_share
    return mixed.round_().to(torch.uint8)


def nearest(sources: Sources, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops of masks, uint8 (N, h, w); arguments as of :func:`bilinear`."""
    x, y = _positions(sources.maps, windows, size)
    return _at(sources, (x + 0.5).floor_(), (y + 0.5).floor_())


def _from_centres(affine: Affine) -> Affine:
    """A map between positions that count from corners as a map between pixels' numbers."""
    a, b, c, d, e, f = affine
    half = 0.5
    return a, b, a * half + b * half + c - half, d, e, d * half + e * half + f - half


def _positions(maps: Tensor, windows: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Column and row in the source of each pixel of the crops, float64 (N, h, w) each."""
    ys = torch.arange(size[0], device=maps.device)[None, :, None]
    xs = torch.arange(size[1], device=maps.device)[None, None, :]
    a, b, c, d, e, f = (value[:, None, None] for value in maps.unbind(1))
    left, top, right, bottom = (value[:, None, None] for value in windows.unbind(1))
    shown = ((xs >= left) & (xs < right)) & ((ys >= top) & (ys < bottom))
    columns = a * xs + (b * ys + c)
    rows = d * xs + (e * ys + f)
    return columns.where(shown, OUTSIDE), rows.where(shown, OUTSIDE)


def _at(sources: Sources, columns: Tensor, rows: Tensor) -> Tensor:
    """The pixels at whole positions; positions beyond the part read its frame."""
    first, height, width = (value[:, None, None] for value in sources.places.unbind(1))
    column = torch.minimum(columns.clamp(min=-1), width).long() + 1
    row = torch.minimum(rows.clamp(min=-1), height).long() + 1
    return sources.pixels[first + row * (width + 2) + column]
