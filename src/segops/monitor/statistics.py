"""Two-sample tests by permutation, and the correction for several of them.

A permutation test holds its level in samples of any size and whatever the distribution, ties
included, as long as the images are independent of one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

Values = NDArray[np.float64]
PERMUTATIONS = 1999
"""The smallest p-value is 1 / (1 + this)."""
_AT_ONCE = 500
"""Permutations that are in memory at a time."""


@dataclass(frozen=True)
class Tested:
    """The outcome of a test of several columns at once.

    Attributes:
        p: The p-value of "the distributions of all columns are the same".
        columns: The p-value of each column, corrected for the number of columns.
    """

    p: float
    columns: Values


def ranks_test(
    reference: Values, sample: Values, permutations: int = PERMUTATIONS, seed: int = 0
) -> Tested:
    """Test whether the columns of two tables have the same distributions, by ranks.

    A column is compared in location (mean rank, as Wilcoxon) and in spread (mean squared distance
    of the rank from the middle, as Mood): the two parts of Lepage's test (1971). The statistic is
    the largest of the standardised differences over all columns; its permutation distribution
    corrects for the number of columns and takes their correlation into account (Westfall and Young
    1993, single-step maxT).

    Args:
        reference: (m, K), m > 0.
        sample: (n, K), n > 0.
        permutations: Number of permutations.
        seed: Seed of the permutations.
    """
    m, n = len(reference), len(sample)
    ranks = rankdata(np.concatenate([reference, sample]), axis=0) / (m + n) - (m + n + 1) / (
        2 * (m + n)
    )
    scores = np.concatenate([ranks, ranks**2], axis=1)
    scores -= scores.mean(axis=0)
    spread = scores.std(axis=0)
    constant = spread < 1e-9  # of two values of equal number, the distance from the middle
    scores = np.where(constant, 0.0, scores / np.where(constant, 1.0, spread))

    def largest(found: Values) -> Values:
        """Of location and spread, for each column."""
        size = np.abs(found).reshape(*found.shape[:-1], 2, -1)
        return np.asarray(size.max(axis=-2))

    observed = largest(scores[m:].sum(axis=0))
    beyond = np.zeros(reference.shape[1])
    beyond_all = 0
    for chosen in _permuted(m, n, permutations, seed):
        most = largest(chosen @ scores).max(axis=1, initial=0.0)
        beyond += (most[:, None] >= observed[None] - 1e-9).sum(axis=0)
        beyond_all += int((most >= observed.max(initial=0.0) - 1e-9).sum())
    count = permutations + 1
    return Tested((1 + beyond_all) / count, (1 + beyond) / count)


@dataclass(frozen=True)
class Discrepancy:
    """A maximum mean discrepancy.

    Attributes:
        squared: Its unbiased estimate, squared; about 0, and perhaps below, where nothing differs.
        p: Its p-value.
        witness: (n,) For each point of the sample, its mean similarity to the sample minus that to
            the reference; large where the sample lies and the reference does not.
    """

    squared: float
    p: float
    witness: Values


def mmd_test(
    reference: Values, sample: Values, permutations: int = PERMUTATIONS, seed: int = 0
) -> Discrepancy:
    """Test whether two samples of points have the same distribution, by their kernel means.

    The kernel is Gaussian; its width is the median distance of all pairs. Columns are first divided
    by their standard deviation over both samples.

    Args:
        reference: (m, D), m > 1.
        sample: (n, D), n > 1.
        permutations: Number of permutations.
        seed: Seed of the permutations.

    Source:
        Gretton, Borgwardt, Rasch, Schölkopf, Smola: A Kernel Two-Sample Test, JMLR 13, 2012: the
        estimate of equation 3, the width of section 8.
    """
    m, n = len(reference), len(sample)
    points = np.concatenate([reference, sample])
    deviation = points.std(axis=0)
    points = points[:, deviation > 0] / deviation[deviation > 0]
    squared = cdist(points, points, "sqeuclidean") if points.shape[1] else np.zeros((m + n, m + n))
    width = float(np.median(squared[np.triu_indices(m + n, 1)])) or 1.0
    kernel = np.exp(-squared / width)
    np.fill_diagonal(kernel, 0.0)
    total, rows = kernel.sum(), kernel.sum(axis=1)

    def estimate(chosen: Values) -> Values:
        """For rows of 0 and 1, where 1 marks the points of the sample."""
        inside = ((chosen @ kernel) * chosen).sum(axis=1)
        across = chosen @ rows - inside
        outside = total - inside - 2 * across
        return np.asarray(inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * across / (m * n))

    own = np.concatenate([np.zeros(m), np.ones(n)])[None]
    observed = float(estimate(own)[0])
    beyond = sum(
        int((estimate(chosen) >= observed - 1e-12).sum())
        for chosen in _permuted(m, n, permutations, seed)
    )
    witness = kernel[m:, m:].sum(axis=1) / (n - 1) - kernel[m:, :m].mean(axis=1)
    return Discrepancy(observed, (1 + beyond) / (permutations + 1), witness)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number: the chance of one false alarm is held.

    Source:
        Holm: A simple sequentially rejective multiple test procedure, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def unusualness(reference: Values, sample: Values, neighbours: int = 5) -> Values:
    """The share of the reference that lies nearer to the reference than each point of the sample.

    A point's distance is the mean to its nearest `neighbours` of the reference, itself left out,
    with each column divided by the reference's standard deviation.

    Args:
        reference: (m, D), m > 1.
        sample: (n, D).
        neighbours: Number of neighbours; at most m - 1 are used.

    Returns:
        (n,), 0..1; near 1 is unusual.
    """
    deviation = reference.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    neighbours = min(neighbours, len(reference) - 1)
    own = cdist(reference / deviation, reference / deviation)
    np.fill_diagonal(own, np.inf)
    usual = np.sort(_nearest(own, neighbours))
    found = _nearest(cdist(sample / deviation, reference / deviation), neighbours)
    return np.asarray(np.searchsorted(usual, found) / len(usual))


def _nearest(distances: Values, count: int) -> Values:
    return np.asarray(np.sort(distances, axis=1)[:, :count].mean(axis=1))


def _permuted(m: int, n: int, permutations: int, seed: int) -> Iterator[Values]:
    """Rows of m zeros and n ones in random order, some at a time."""
    random = np.random.default_rng(seed)
    own = np.concatenate([np.zeros(m), np.ones(n)])
    for start in range(0, permutations, _AT_ONCE):
        rows = np.tile(own, (min(_AT_ONCE, permutations - start), 1))
        yield random.permuted(rows, axis=1)
