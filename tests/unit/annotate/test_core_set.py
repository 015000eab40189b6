"""The choice of centres against a literal version of it, and on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from segops.annotate.core_set import FARTHEST, Pick, choose, unit


def spread(count: int, seed: int, width: int = 6) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return np.stack([unit(one) for one in vectors])


def literal(
    features: np.ndarray, uncertainty: np.ndarray, labelled: np.ndarray, count: int
) -> list[int]:
    """As the paper writes it: all distances again for every centre."""
    chosen: list[int] = []
    while len(chosen) < count:
        centres = [*labelled, *features[chosen]]
        worth = [
            -1.0
            if index in chosen
            else uncertainty[index] * min(float(np.linalg.norm(one - centre)) for centre in centres)
            for index, one in enumerate(features)
        ]
        chosen.append(int(np.argmax(worth)))
    return chosen


@pytest.mark.parametrize("labelled", [1, 7])
def test_it_chooses_as_the_literal_version(labelled: int) -> None:
    features, known = spread(60, 0), spread(labelled, 1)
    uncertainty = np.random.default_rng(2).uniform(0.1, 1, 60)
    found = choose(features, uncertainty, known, 15)
    assert [pick.index for pick in found] == literal(features, uncertainty, known, 15)


def test_many_rows_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, known = spread(60, 0), spread(5, 1)
    whole = choose(features, np.ones(60), known, 20)
    monkeypatch.setattr("segops.annotate.core_set._ROWS", 7)
    assert choose(features, np.ones(60), known, 20) == whole


def test_a_copy_is_taken_last_and_the_first_of_equals_first() -> None:
    east, north = unit(np.array([1.0, 0.0])), unit(np.array([0.0, 2.0]))
    assert north.tolist() == [0.0, 1.0]
    found = choose(np.stack([east, east, north]), np.full(3, 0.5), np.zeros((0, 2)), 9)
    assert found == [Pick(0, FARTHEST), Pick(2, pytest.approx(2**0.5, abs=1e-4)), Pick(1, 0.0)]


def test_uncertainty_and_distance_both_count() -> None:
    known = unit(np.array([1.0, 0.0]))[None]
    near, far = unit(np.array([1.0, 0.3])), unit(np.array([0.0, 1.0]))
    features = np.stack([near, far])
    assert choose(features, np.array([0.9, 0.9]), known, 1)[0].index == 1
    assert choose(features, np.array([0.9, 0.01]), known, 1)[0].index == 0
    assert choose(features, np.zeros(2), known, 1)[0].index == 1
