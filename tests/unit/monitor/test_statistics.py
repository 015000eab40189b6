"""The tests behind `segops monitor`: against enumerations, definitions and published examples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata

from segops.monitor.statistics import holm, mmd_test, ranks_test, unusualness


def test_holm_as_in_the_book() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_ranks_are_tested_as_all_permutations_say() -> None:
    random = np.random.default_rng(0)
    table = np.round(random.normal(size=(9, 2)), 1)  # with a tie
    table[5:, 0] += 1.0
    table[5:, 1] *= 3.0

    def largest(chosen: list[int]) -> NDArray[np.float64]:
        ranks = rankdata(table, axis=0)
        both = np.array([ranks, (ranks - 5.0) ** 2])
        difference = both[:, chosen].mean(axis=1) - both.mean(axis=1)
        return np.asarray(np.abs(difference / both.std(axis=1)).max(axis=0))

    observed = largest([5, 6, 7, 8])
    every = np.array([largest(list(one)).max() for one in combinations(range(9), 4)])
    exact = (every[:, None] >= observed[None] - 1e-9).mean(axis=0)
    found = ranks_test(table[:5], table[5:], permutations=4999)
    # Three standard errors of 5000 draws.
    assert found.columns == pytest.approx(exact, abs=0.022)
    assert found.p == pytest.approx(exact.min(), abs=0.022)


def test_columns_without_a_difference_are_sure_of_nothing() -> None:
    constant = ranks_test(np.ones((6, 2)), np.ones((5, 2)))
    assert constant.p == 1.0
    assert constant.columns.tolist() == [1.0, 1.0]


def test_spread_is_seen_where_the_location_stays() -> None:
    random = np.random.default_rng(1)
    wide = random.normal(size=(60, 3)) * np.array([1.0, 4.0, 1.0])
    found = ranks_test(random.normal(size=(80, 3)), wide, permutations=999)
    assert found.columns[1] == pytest.approx(0.001)
    assert found.columns[[0, 2]].min() > 0.05


def test_the_discrepancy_is_that_of_its_definition() -> None:
    random = np.random.default_rng(2)
    reference, sample = random.normal(size=(7, 3)), random.normal(1.0, size=(5, 3))
    found = mmd_test(reference, sample, permutations=99)
    points = np.concatenate([reference, sample])
    points /= points.std(axis=0)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median([squared[i, j] for i, j in combinations(range(12), 2)]))
    within = [
        np.mean([kernel[i, j] for i in part for j in part if i != j])
        for part in (range(7), range(7, 12))
    ]
    across = kernel[:7, 7:].mean()
    assert found.squared == pytest.approx(sum(within) - 2 * across)
    first = np.mean([kernel[7, j] for j in range(8, 12)]) - kernel[7, :7].mean()
    assert found.witness[0] == pytest.approx(first)


@pytest.mark.parametrize("test", ["ranks", "mmd"])
def test_the_level_is_held_and_a_difference_is_found(test: str) -> None:
    random = np.random.default_rng(3)

    def p(shift: float) -> float:
        one, two = random.gamma(2.0, size=(30, 4)), random.gamma(2.0, size=(20, 4)) + shift
        return (ranks_test if test == "ranks" else mmd_test)(one, two, 199).p

    level = np.mean([p(0.0) <= 0.05 for _ in range(200)])
    assert 0.01 <= level <= 0.1  # 0.05, four standard errors about
    assert np.mean([p(2.0) <= 0.05 for _ in range(20)]) == 1.0


def test_constant_features_differ_in_nothing() -> None:
    found = mmd_test(np.ones((5, 3)), np.ones((4, 3)), 99)
    assert found.p == 1.0
    assert found.squared == pytest.approx(0.0)


def test_the_odd_point_is_the_most_unusual() -> None:
    random = np.random.default_rng(4)
    reference = random.normal(size=(50, 2)) * [1.0, 100.0]
    scores = unusualness(reference, np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]))
    assert scores[1] == 1.0
    assert scores[[0, 2]].max() < 0.6
