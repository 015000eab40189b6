"""Gaussian filtering of many points in a few dimensions, by a permutohedral lattice in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .errors import SegopsError

_LARGEST_KEY = 2**62


class Permutohedral:
    """Filters values at points by a Gaussian of standard deviation 1 in the points' space.

    Points are embedded in the hyperplane of R^(d+1) whose coordinates sum to zero, where the
    permutohedral lattice tiles space with simplices of d+1 vertices. A value is spread over the
    vertices of its simplex by barycentric weights (splat), the vertices are blurred by
    (1/2, 1, 1/2) along each of the d+1 lattice directions, and the same weights interpolate the
    result (slice). Only vertices of a point's simplex exist; values blurred onto other vertices are
    lost, as in the reference implementation. The cost depends on the number of points and not on
    the filter's width.

    The lattice is built once and filters any number of values. The points fix the order of every
    sum, so that the same input gives the same bits.

    Args:
        features: float (N, d), the points, N and d at least 1, in units of the standard deviation.

    Raises:
        SegopsError: The points span too many standard deviations to number the lattice.

    Source:
        Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice,
        Eurographics 2010; order of the blurs and rounding as in the implementation that
        Krähenbühl and Koltun published with "Efficient Inference in Fully Connected CRFs with
        Gaussian Edge Potentials", NIPS 2011 (densecrf, permutohedral.cpp); its results are the same
        up to rounding.
    """

    def __init__(self, features: Tensor) -> None:
        elevated = _elevate(features.float().T)
        origin, rank = _simplex(elevated)
        weights = _barycentric(elevated, origin, rank)
        keys, steps = _keys(origin.long(), rank)
        self.points = features.shape[0]
        # One sort gives the vertices, each pixel's vertices, and each vertex's pixels.
        ordered, order = keys.T.flatten().sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        vertices = ordered[first]
        vertex_indices = torch.empty_like(order)
        vertex_indices[order] = first.cumsum(0) - 1
        corners = keys.shape[0]
        self.size = vertices.shape[0]
        self._slice_index = vertex_indices.view(-1, corners).int()
        self._slice_weights = weights.T.contiguous()
        self._splat_index = (order // corners).int()
        self._splat_weights = self._slice_weights.flatten()[order]
        self._splat_starts = first.nonzero().flatten().int()
        self._neighbours = [_neighbours(vertices, step) for step in steps]

    def normalise(self) -> None:
        """Divide the kernel by the square roots of its sums at both points; call this once.

        The kernel k(i, j) becomes k(i, j) / sqrt(sum of k(i, .) * sum of k(j, .)).
        """
        norm = self.filter(torch.ones(self.points, 1, device=self._slice_weights.device)).rsqrt_()
        self._slice_weights *= norm
        self._splat_weights *= norm.flatten()[self._splat_index]

    def filter(self, values: Tensor) -> Tensor:
        """Filter values, float32 (N, C), any number of values a point.

        Returns:
            float32 (N, C): at each point the sum of all values, weighted by a Gaussian of the
            distance; up to a factor common to all, and to the lattice's approximation.

        Raises:
            ValueError: Another number of points.
        """
        if values.ndim != 2 or values.shape[0] != self.points:
            raise ValueError(f"values: expected shape ({self.points}, C), found {values.shape}")
        spread = functional.embedding_bag(
            self._splat_index,
            values.float().contiguous(),
            self._splat_starts,
            mode="sum",
            per_sample_weights=self._splat_weights,
        )
        # The last row represents all vertices that do not exist.
        spread = functional.pad(spread, (0, 0, 0, 1))
        for before, after in self._neighbours:
            spread = (
                spread.index_select(0, before)
                .add_(spread.index_select(0, after))
                .mul_(0.5)
                .add_(spread)
            )
        return functional.embedding_bag(
            self._slice_index, spread, mode="sum", per_sample_weights=self._slice_weights
        )


def _elevate(features: Tensor) -> Tensor:
    """Points (d, N) in the lattice's hyperplane (d+1, N).

    Splatting, blurring and slicing together spread a value with the variance 2 (d+1)^2 / 3.
    """
    dimensions = features.shape[0]
    deviation = math.sqrt(2 / 3) * (dimensions + 1)
    elevated = features.new_zeros(dimensions + 1, features.shape[1])
    for axis in range(dimensions, 0, -1):
        scaled = features[axis - 1] * (deviation / math.sqrt(axis * (axis + 1)))
        elevated[axis] -= axis * scaled
        elevated[:axis] += scaled
    return elevated


def _simplex(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex of each point.

    Returns:
        The vertex of remainder 0 (d+1, N), whole numbers, and the rank of each coordinate's
        distance from it, int64 (d+1, N), 0 for the largest.
    """
    corners = elevated.shape[0]
    origin = (elevated / corners).round() * corners
    rest = elevated - origin
    rank = torch.zeros_like(rest, dtype=torch.int64)
    for one in range(corners):
        for other in range(one + 1, corners):
            smaller = rest[one] < rest[other]
            rank[one] += smaller
            rank[other] += ~smaller
    # Rounding may leave the hyperplane: return to it along the coordinates of least distance.
    rank += (origin.sum(0) / corners).round().long()
    low, high = rank < 0, rank >= corners
    shift = (low.long() - high.long()) * corners
    return origin + shift, rank + shift


def _barycentric(elevated: Tensor, origin: Tensor, rank: Tensor) -> Tensor:
    """Weights (d+1, N) of the vertices of remainder 0 to d; they sum to 1 at each point."""
    corners = elevated.shape[0]
    rest = (elevated - origin) / corners
    by_rank = torch.empty_like(rest).scatter_(0, corners - 1 - rank, rest)
    weights = by_rank - by_rank.roll(1, 0)
    weights[0] += 1
    return weights


def _keys(origin: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
    """Number the vertices.

    A vertex's number is linear in its coordinates, so that a step along a lattice direction adds
    the same amount everywhere.

    Returns:
        int64 (d+1, N), the numbers of the vertices of remainder 0 to d, and the difference of a
        step along each of the d+1 directions.
    """
    corners = origin.shape[0]
    lowest, highest = origin.amin(1), origin.amax(1)
    strides = [1]
    # A vertex lies at most d+1 from its simplex's origin, a neighbour at most d from the vertex.
    for span in (highest - lowest).tolist()[:-1]:
        strides.append(strides[-1] * (span + 4 * corners + 1))
    if strides[-1] > _LARGEST_KEY:
        raise SegopsError(
            "predict.crf: the kernel is too narrow for its lattice to be numbered. Set "
            "bilateral_sigma to 1 pixel or more and color_sigma to 1 grey level or more."
        )
    # The last coordinate follows from the others, because all sum to zero.
    stride = torch.tensor([*strides[:-1], 0], device=origin.device)[:, None]
    total = sum(strides[:-1])
    keys = torch.empty_like(origin)
    keys[0] = ((origin - lowest[:, None]) * stride).sum(0)
    by_rank = torch.empty_like(origin).scatter_(0, rank, stride.expand_as(rank))
    for remainder in range(1, corners):
        keys[remainder] = keys[remainder - 1] + total - corners * by_rank[corners - remainder]
    return keys, [corners * one - total for one in (*strides[:-1], 0)]


def _neighbours(vertices: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Indices (M+1,) of the vertices one step before and after; M if there is no such vertex."""
    count = vertices.shape[0]
    wanted = vertices + step
    found = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
    there = vertices[found] == wanted
    after = torch.full((count + 1,), count, device=vertices.device)
    before = after.clone()
    source = there.nonzero().flatten()
    after[source] = found[source]
    before[found[source]] = source
    return before.int(), after.int()
