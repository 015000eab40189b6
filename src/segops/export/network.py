"""A segmenter as one graph for any number, height and width of images, with its surroundings."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class WholeNetwork(nn.Module):
    """What :class:`segops.runtime.networks.segmenter.Segmenter` computes, without its branches.

    A branch on the size of an image would fix that size in the graph, so images are always padded,
    by nothing where their size is a multiple of the stride.

    Args:
        segmenter: The network of a bundle, whose code may be of another version. It is copied.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        source: Any = segmenter
        self.network = copy.deepcopy(source.network)
        self.stride, self.min_side = int(source.stride), int(source.min_side)
        self.register_buffer("offset", source.pixel_mean.clone())
        self.register_buffer("scale", source.pixel_std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of images float32 (N, B, H, W) in 0..255."""
        height, width = images.shape[-2:]
        normalised = (images - self.offset) / self.scale
        padding = (0, self._missing(width), 0, self._missing(height))
        with grid_means():
            logits: Tensor = self.network(functional.pad(normalised, padding))
        return logits[..., :height, :width]

    def _missing(self, side: Any) -> Any:
        wanted = torch.sym_max(side, self.min_side) if self.min_side > self.stride else side
        # Written so that the compiler sees a multiple of the stride.
        return (wanted + self.stride - 1) // self.stride * self.stride - side


@contextmanager
def grid_means() -> Iterator[None]:
    """Let networks that pool to a grid call :func:`grid_mean`.

    The exporter knows ``functional.adaptive_avg_pool2d``, which layers and ``interpolate`` in mode
    `area` call, for one size of features only.
    """
    module: Any = functional
    pool = module.adaptive_avg_pool2d
    module.adaptive_avg_pool2d = grid_mean
    try:
        yield
    finally:
        module.adaptive_avg_pool2d = pool


def grid_mean(features: Tensor, output_size: Any) -> Tensor:
    """``functional.adaptive_avg_pool2d`` as a product with a matrix along each axis.

    Args:
        features: (N, C, h, w).
        output_size: Cells along height and width, or one number for both; None keeps a side.

    Returns:
        The means of the cells, (N, C, rows, columns).
    """
    size = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    if all(side == 1 for side in size):
        return features.mean(dim=(-2, -1), keepdim=True)
    for axis, cells in zip((-2, -1), size, strict=True):
        if cells is not None:
            means = _cells(features.shape[axis], int(cells)).to(features)
            features = means @ features if axis == -2 else features @ means.transpose(0, 1)
    return features


def _cells(side: int, cells: int) -> Tensor:
    """The matrix (cells, side) that averages a side: cell i from i s / c to (i + 1) s / c."""
    first = torch.arange(cells)[:, None] * side
    begin, end = first // cells, (first + side + cells - 1) // cells
    place = torch.arange(side)[None]
    inside = (place >= begin) & (place < end)
    return inside.float() / (end - begin).float()
