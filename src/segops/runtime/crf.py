"""Refinement of class probabilities by a fully connected conditional random field (dense CRF)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .permutohedral import Permutohedral
from .predict_settings import CrfSettings

_BLOCK = 64
"""Rows that the smoothness kernel computes at a time, in pixels."""

_REACH = 6.0
"""Standard deviations beyond which the smoothness kernel counts as zero: under 2e-8 of its peak."""


@torch.no_grad()
def refine(probabilities: Tensor, image: Tensor, settings: CrfSettings) -> Tensor:
    """Refine probabilities by the colours of the image.

    This is mean-field inference of a fully connected CRF with two Gaussian kernels and Potts
    labels. The unary energy of a pixel is -log of its probability. Every pair of pixels of
    different labels costs ``gaussian_weight`` times a Gaussian of their distance, plus
    ``bilateral_weight`` times a Gaussian of their distance and of their difference in colour. Both
    kernels are normalised symmetrically, by the square roots of their sums at either pixel, and
    contain the pixel itself, as in the authors' implementation (densecrf) and its wrapper
    (pydensecrf). The smoothness kernel is computed exactly, the appearance kernel by a
    permutohedral lattice.

    Args:
        probabilities: float32 (C, H, W), summing to 1 at each pixel; zeros are allowed.
        image: uint8 (H, W, 3), RGB, on the same device.
        settings: Weights and widths of the kernels, and the number of updates; 0: probabilities
            are not changed.

    Returns:
        float32 (C, H, W), summing to 1 at each pixel. The same bits for the same input on the CPU
        at the same number of threads.

    Raises:
        ValueError: The shapes do not match.
        SegopsError: ``bilateral_sigma`` and ``color_sigma`` are far below a pixel and a grey level.

    Source:
        Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge
        Potentials, NIPS 2011, equations 1 to 3 and algorithm 1.
    """
    if probabilities.ndim != 3 or image.shape != (*probabilities.shape[1:], 3):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and image {tuple(image.shape)}: "
            "expected (C, H, W) and (H, W, 3)"
        )
    if settings.iterations == 0:
        return probabilities
    # Pixels first, as the lattice needs it. 0 becomes the smallest number with a logarithm.
    marginals = probabilities.float().permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    log_unary = marginals.clamp(min=torch.finfo(torch.float32).tiny).log_()
    kernels: list[tuple[float, _Smoothness | _Appearance]] = []
    if settings.gaussian_weight:
        kernels.append((settings.gaussian_weight, _Smoothness(image, settings.gaussian_sigma)))
    if settings.bilateral_weight:
        appearance = _Appearance(image, settings.bilateral_sigma, settings.color_sigma)
        kernels.append((settings.bilateral_weight, appearance))
    for _ in range(settings.iterations):
        energy = log_unary.clone()
        for weight, kernel in kernels:
            energy.add_(kernel.filter(marginals), alpha=weight)
        torch.softmax(energy, dim=2, out=marginals)
    return marginals.permute(2, 0, 1).contiguous()


class _Smoothness:
    """The Gaussian of the distance, separable: a banded matrix along each axis."""

    def __init__(self, image: Tensor, sigma: float) -> None:
        self._reach = math.ceil(_REACH * sigma)
        self._rows, self._columns = (self._band(side, sigma, image) for side in image.shape[:2])

    def filter(self, values: Tensor) -> Tensor:
        """Filter (H, W, C)."""
        down = self._along_first(self._rows, values)
        return self._along_first(self._columns, down.transpose(0, 1)).transpose(0, 1)

    def _band(self, side: int, sigma: float, image: Tensor) -> list[tuple[slice, slice, Tensor]]:
        """The normalised kernel of one axis in blocks: rows, the columns they need, values."""
        place = torch.arange(side, device=image.device, dtype=torch.float64)
        reach = torch.arange(-self._reach, self._reach + 1, device=image.device)
        inside = ((place[:, None] + reach >= 0) & (place[:, None] + reach < side)).double()
        norm = (inside @ torch.exp(-0.5 * (reach / sigma).double().square())).rsqrt()
        blocks = []
        for start in range(0, side, _BLOCK):
            rows = slice(start, min(start + _BLOCK, side))
            columns = slice(max(start - self._reach, 0), min(rows.stop + self._reach, side))
            distance = place[rows, None] - place[columns]
            kernel = torch.exp(-0.5 * (distance / sigma).square())
            kernel[distance.abs() > self._reach] = 0
            blocks.append((rows, columns, (norm[rows, None] * kernel * norm[columns]).float()))
        return blocks

    @staticmethod
    def _along_first(band: list[tuple[slice, slice, Tensor]], values: Tensor) -> Tensor:
        found = torch.empty(values.shape, device=values.device)
        for rows, columns, kernel in band:
            # Block by block, so that a transposed image is never copied whole.
            needed = values[columns].reshape(kernel.shape[1], -1)
            torch.mm(kernel, needed, out=found[rows].view(kernel.shape[0], -1))
        return found


class _Appearance:
    """The Gaussian of distance and colour, by a lattice in five dimensions."""

    def __init__(self, image: Tensor, sigma: float, color_sigma: float) -> None:
        height, width = image.shape[:2]
        rows = torch.arange(height, device=image.device)[:, None].expand(height, width) / sigma
        columns = torch.arange(width, device=image.device).expand(height, width) / sigma
        colors = (image.float() / color_sigma).unbind(2)
        features = torch.stack([columns, rows, *colors], dim=2)
        self._lattice = Permutohedral(features.view(-1, 5))
        self._lattice.normalise()

    def filter(self, values: Tensor) -> Tensor:
        """Filter (H, W, C)."""
        return self._lattice.filter(values.flatten(0, 1)).view(values.shape)
