"""Bootstrap intervals and the paired comparison: exactness, invariants, calibration."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm, t

from segops.evaluate import bootstrap
from segops.evaluate.bootstrap import (
    interval,
    miou_from_counts,
    paired_difference,
    true_classes,
    without_images,
)
from segops.metrics.iou import class_pixels, miou
from segops.runtime.errors import SegopsError


def table(dense: NDArray[np.int64]) -> pd.DataFrame:
    """Counts table of an array (images, classes, (intersection, predicted, truth))."""
    rows = [
        {
            "image_id": f"image {image:04d}",
            "image_sha256": f"{image:064x}",
            "class_id": label,
            "intersection": both,
            "predicted": predicted,
            "truth": truth,
        }
        for image, classes in enumerate(dense.tolist())
        for label, (both, predicted, truth) in enumerate(classes)
        if predicted or truth
    ]
    return pd.DataFrame(rows, columns=list(bootstrap.COLUMNS))


def simulate(random: np.random.Generator, images: int, classes: int = 6) -> NDArray[np.int64]:
    """Pixel counts of a made-up model: classes come and go, sizes and quality vary by image."""
    present = random.random((images, classes)) < 0.4
    present[:, 0] = True
    truth = (
        np.where(present, np.exp(random.normal(6, 1, present.shape)), 0).astype(np.int64) + present
    )
    quality = random.beta(4 * np.linspace(0.8, 0.4, classes), 2, present.shape)
    both = np.floor(truth * quality).astype(np.int64)
    predicted = both.copy()
    predicted[:, 0] += (truth - both).sum(axis=1) - (truth - both)[:, 0]
    spread = present[:, 1:] / np.maximum(present[:, 1:].sum(axis=1, keepdims=True), 1)
    predicted[:, 1:] += np.floor((truth - both)[:, :1] * spread).astype(np.int64)
    return np.stack([both, predicted, truth], axis=2)


def rival(random: np.random.Generator, dense: NDArray[np.int64], gain: float) -> NDArray[np.int64]:
    """Another model on the same images, better by about `gain` in each class's recall."""
    both, predicted, truth = dense[..., 0], dense[..., 1], dense[..., 2]
    share = both / np.maximum(truth, 1) + random.normal(gain, 0.05, both.shape)
    other = np.floor(np.clip(share, 0, 1) * truth).astype(np.int64)
    return np.stack([other, predicted + other - both, truth], axis=2)


def literal_miou(dense: NDArray[np.int64]) -> float:
    both, predicted, truth = dense.sum(axis=0).T.astype(float)
    occurs = truth > 0
    return float((both / np.maximum(predicted + truth - both, 1))[occurs].mean())


def test_miou_from_counts_equals_that_of_the_confusion_matrix() -> None:
    random = np.random.default_rng(0)
    confusions = random.integers(0, 50, (7, 5, 5))
    confusions[:, 3] = 0  # a class that is predicted but not in the truth
    confusions[2:, 1] = 0  # a class that is in few images
    dense = np.stack(
        [confusions.diagonal(axis1=1, axis2=2), confusions.sum(axis=1), confusions.sum(axis=2)], 2
    )
    counts = table(dense)
    assert true_classes(counts) == (0, 1, 2, 4)
    found = miou_from_counts(counts, true_classes(counts))
    assert found == pytest.approx(miou(*class_pixels(confusions.sum(axis=0))), abs=1e-15)
    # Classes without truth stay out, as in miou, when they are asked for.
    assert miou_from_counts(counts, range(5)) == found
    assert math.isnan(miou_from_counts(counts, [3]))


def test_equals_the_literal_bootstrap() -> None:
    dense = simulate(np.random.default_rng(3), 30)
    counts = table(dense)
    draws = np.random.default_rng(11)
    times = np.concatenate(
        [draws.multinomial(30, np.full(30, 1 / 30), size=size) for size in (256, 144)]
    )
    resampled = [literal_miou(np.repeat(dense, row, axis=0)) for row in times]
    tail = norm.cdf(math.sqrt(30 / 29) * t.ppf(0.05, 29))
    expected = np.quantile(resampled, [tail, 1 - tail])
    found = interval(counts, samples=400, confidence=0.9, seed=11)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_paired_equals_the_literal_bootstrap() -> None:
    random = np.random.default_rng(4)
    champion = simulate(random, 25)
    challenger = rival(random, champion, 0.05)
    times = np.random.default_rng(5).multinomial(25, np.full(25, 1 / 25), size=200)
    resampled = [
        literal_miou(np.repeat(challenger, row, axis=0)) - literal_miou(np.repeat(champion, row, 0))
        for row in times
    ]
    quantile = t.ppf(0.95, 24)
    tail = norm.cdf(-math.sqrt(25 / 24) * quantile)
    found = paired_difference(table(challenger), table(champion), range(6), 200, 0.95, 5)
    assert found.difference == pytest.approx(literal_miou(challenger) - literal_miou(champion))
    np.testing.assert_allclose((found.low, found.high), np.quantile(resampled, [tail, 1 - tail]))
    spread = np.std(resampled) * math.sqrt(25 / 24)
    assert found.minimum_detectable == pytest.approx(quantile * spread)
    assert found.images == 25


@given(st.integers(0, 2**31), st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_changes_nothing_and_a_model_equals_itself(
    seed: int, images: int
) -> None:
    random = np.random.default_rng(seed)
    counts = table(simulate(random, images))
    shuffled = counts.sample(frac=1, random_state=seed % 1000)
    low, high = interval(counts, 200, 0.95, seed)
    assert interval(shuffled, 200, 0.95, seed) == (low, high)
    assert 0 <= low <= high <= 1
    same = paired_difference(counts, shuffled, true_classes(counts), 200, 0.95, seed)
    assert (same.difference, same.low, same.high, same.minimum_detectable) == (0, 0, 0, 0)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_swapping_the_models_turns_the_sign(seed: int) -> None:
    random = np.random.default_rng(seed)
    dense = simulate(random, 15)
    one, other = table(dense), table(rival(random, dense, 0.1))
    there = paired_difference(one, other, range(6), 200, 0.95, seed)
    back = paired_difference(other, one, range(6), 200, 0.95, seed)
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.minimum_detectable == pytest.approx(there.minimum_detectable)


def test_same_seed_same_interval_and_higher_level_is_wider() -> None:
    counts = table(simulate(np.random.default_rng(1), 40))
    assert interval(counts, 500, 0.95, 7) == interval(counts, 500, 0.95, 7)
    assert interval(counts, 500, 0.95, 7) != interval(counts, 500, 0.95, 8)
    inner, outer = interval(counts, 500, 0.8, 7), interval(counts, 500, 0.99, 7)
    assert outer[0] < inner[0] < inner[1] < outer[1]


def test_one_image_says_nothing_of_the_spread() -> None:
    counts = table(simulate(np.random.default_rng(1), 1))
    assert all(math.isnan(end) for end in interval(counts, 100, 0.95, 0))
    found = paired_difference(counts, counts, true_classes(counts), 100, 0.95, 0)
    assert found.difference == 0
    assert all(math.isnan(one) for one in (found.low, found.high, found.minimum_detectable))


def test_no_images_is_nan_not_an_error() -> None:
    counts = table(np.zeros((0, 3, 3), np.int64))
    assert math.isnan(miou_from_counts(counts, [0, 1]))
    assert all(math.isnan(end) for end in interval(counts, 100, 0.95, 0))


def test_a_class_of_one_image_is_left_out_of_resamples_without_it() -> None:
    dense = np.zeros((8, 2, 3), np.int64)
    dense[:, 0] = 10, 10, 10  # perfect on class 0
    dense[0, 1] = 0, 0, 10  # class 1 is in one image and never found
    low, high = interval(table(dense), 500, 0.95, 0)
    assert (low, high) == (0.5, 1.0)


def test_images_that_do_not_count_are_left_out_by_hash() -> None:
    counts = table(simulate(np.random.default_rng(2), 5))
    kept = without_images(counts, [f"{1:064x}", f"{3:064x}", "no such hash"])
    assert sorted(kept["image_id"].unique()) == ["image 0000", "image 0002", "image 0004"]


@pytest.mark.parametrize(
    ("column", "value"), [("truth", 12345), ("image_sha256", "other"), ("image_id", "another")]
)
def test_models_on_other_data_are_not_compared(column: str, value: object) -> None:
    counts = table(simulate(np.random.default_rng(2), 5))
    other = counts.copy()
    other.loc[other.index[0], column] = value
    with pytest.raises(SegopsError, match="not scored on the same images and masks"):
        paired_difference(counts, other, [0, 1], 100, 0.95, 0)


def test_a_missing_image_is_not_passed_over() -> None:
    counts = table(simulate(np.random.default_rng(2), 5))
    with pytest.raises(SegopsError, match=r"1 differ \(image 0003\)"):
        paired_difference(counts, without_images(counts, [f"{3:064x}"]), [0, 1], 100, 0.95, 0)


def test_tables_that_contradict_themselves_are_refused() -> None:
    counts = table(simulate(np.random.default_rng(2), 3))
    for name, value in (("intersection", -1), ("intersection", 10**9)):
        broken = counts.copy()
        broken.loc[0, name] = value
        with pytest.raises(SegopsError, match="contradicts itself for image 0000"):
            miou_from_counts(broken, [0])
    with pytest.raises(SegopsError, match="contradicts itself"):
        interval(pd.concat([counts, counts.iloc[:1]]), 100, 0.95, 0)
    with pytest.raises(SegopsError, match="lacks image_sha256"):
        interval(counts.drop(columns="image_sha256"), 100, 0.95, 0)


@pytest.mark.parametrize("images", [15, 60])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(images: int) -> None:
    truth = literal_miou(simulate(np.random.default_rng(99), 100_000))
    random = np.random.default_rng(0)
    rounds, covered = 300, 0
    for seed in range(rounds):
        low, high = interval(table(simulate(random, images)), 400, 0.9, seed)
        covered += low <= truth <= high
    # Three standard errors of 300 rounds at 0.9 are 0.05; the bootstrap is a little short itself.
    assert 0.83 <= covered / rounds <= 0.96


def test_the_one_sided_bounds_err_about_as_often_as_they_say() -> None:
    large = np.random.default_rng(98)
    dense = simulate(large, 100_000)
    truth = literal_miou(rival(large, dense, 0.03)) - literal_miou(dense)
    random = np.random.default_rng(0)
    rounds, above, below = 300, 0, 0
    for seed in range(rounds):
        champion = simulate(random, 40)
        challenger = rival(random, champion, 0.03)
        found = paired_difference(table(challenger), table(champion), range(6), 400, 0.9, seed)
        above += found.low > truth
        below += found.high < truth
    assert 0.05 <= above / rounds <= 0.16
    assert 0.05 <= below / rounds <= 0.16


def test_the_minimum_detectable_difference_is_the_distance_to_the_bound() -> None:
    random = np.random.default_rng(0)
    champion = simulate(random, 60)
    blurred = rival(random, champion, 0.0)
    found = paired_difference(table(blurred), table(champion), range(6), 2000, 0.95, 0)
    # A difference is told from zero when it is larger than its distance to its lower bound.
    assert found.difference - found.low == pytest.approx(found.minimum_detectable, rel=0.25)
