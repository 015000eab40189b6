"""The paired comparison class by class: exactness, invariants, coverage, speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm, t

from segops.evaluate.bootstrap import (
    RESAMPLES_AT_ONCE,
    paired_class_differences,
    paired_difference,
    true_classes,
    without_images,
)
from segops.runtime.errors import SegopsError
from tests.unit.evaluate.test_bootstrap import rival, simulate, table


def literal_iou(dense: NDArray[np.int64], label: int) -> float:
    """IoU of a class over (images, classes, 3) counts; NaN where the truth does not hold it."""
    both, predicted, truth = (int(one) for one in dense[:, label].sum(axis=0))
    return both / (predicted + truth - both) if truth else math.nan


def draws(images: int, samples: int, seed: int) -> list[NDArray[np.int64]]:
    """How often each image is drawn, resample by resample."""
    random = np.random.default_rng(seed)
    found: list[NDArray[np.int64]] = []
    while len(found) < samples:
        some = min(RESAMPLES_AT_ONCE, samples - len(found))
        found += list(random.multinomial(images, np.full(images, 1 / images), size=some))
    return found


def test_equals_the_literal_bootstrap() -> None:
    random = np.random.default_rng(8)
    champion = simulate(random, 24)
    champion[5:, 4] = 0  # a class that few images hold, and many resamples do not
    champion[3:5, 4] = 0, 7, 0  # predicted where it is not
    challenger = rival(random, champion, 0.05)
    found = paired_class_differences(table(challenger), table(champion), range(6), 300, 0.9, 5)
    left_out = 0
    for label in range(6):
        resampled = []
        for times in draws(24, 300, 5):
            ours, theirs = (np.repeat(one, times, axis=0) for one in (challenger, champion))
            resampled.append(literal_iou(ours, label) - literal_iou(theirs, label))
        kept = [one for one in resampled if not math.isnan(one)]
        left_out += 300 - len(kept)
        holding = int((champion[:, label, 2] > 0).sum())
        tail = norm.cdf(math.sqrt(holding / (holding - 1)) * t.ppf(0.05, holding - 1))
        expected = literal_iou(challenger, label) - literal_iou(champion, label)
        assert found[label].difference == pytest.approx(expected, abs=1e-15)
        ends = np.quantile(kept, [tail, 1 - tail])
        np.testing.assert_allclose((found[label].low, found[label].high), ends, atol=1e-12)
        assert found[label].images == holding
    assert left_out > 0


def test_the_draws_are_those_of_the_difference_of_miou() -> None:
    """With one class mIoU is its IoU, and all images hold it: both bootstraps are the same."""
    random = np.random.default_rng(2)
    champion = simulate(random, 20, classes=1)
    challenger = rival(random, champion, 0.05)
    ours, theirs = table(challenger), table(champion)
    single = paired_class_differences(ours, theirs, [0], 500, 0.9, 3)[0]
    whole = paired_difference(ours, theirs, [0], 500, 0.95, 3)
    assert (single.difference, single.low, single.high) == pytest.approx(
        (whole.difference, whole.low, whole.high)
    )


@given(st.integers(0, 2**31), st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_a_model_equals_itself_exactly_in_any_order_of_rows(seed: int, images: int) -> None:
    counts = table(simulate(np.random.default_rng(seed), images))
    shuffled = counts.sample(frac=1, random_state=seed % 1000)
    found = paired_class_differences(counts, shuffled, true_classes(counts), 100, 0.95, seed)
    for one in found.values():
        assert one.difference == 0
        assert (one.low, one.high) == (0, 0) if one.images > 1 else math.isnan(one.low)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_swapping_the_models_turns_the_sign(seed: int) -> None:
    random = np.random.default_rng(seed)
    dense = simulate(random, 12)
    one, other = table(dense), table(rival(random, dense, 0.1))
    there = paired_class_differences(one, other, true_classes(one), 100, 0.9, seed)
    back = paired_class_differences(other, one, true_classes(one), 100, 0.9, seed)
    for label, found in there.items():
        assert back[label].difference == pytest.approx(-found.difference)
        ends = (-back[label].high, -back[label].low)
        assert ends == pytest.approx((found.low, found.high), nan_ok=True)


def test_renaming_the_images_changes_nothing_but_the_draws() -> None:
    """The difference is the same; the ends move by less than resampling with another seed does."""
    random = np.random.default_rng(6)
    champion = simulate(random, 40)
    challenger = rival(random, champion, 0.05)
    order = random.permutation(40)
    before = paired_class_differences(table(challenger), table(champion), range(6), 2000, 0.9, 1)
    after = paired_class_differences(
        table(challenger[order]), table(champion[order]), range(6), 2000, 0.9, 1
    )
    for label in range(6):
        assert after[label].difference == before[label].difference
        assert after[label].images == before[label].images
        width = before[label].high - before[label].low
        assert after[label].low == pytest.approx(before[label].low, abs=0.15 * width)
        assert after[label].high == pytest.approx(before[label].high, abs=0.15 * width)


def test_too_few_images_have_no_interval_and_absent_classes_no_figure() -> None:
    dense = np.zeros((6, 3, 3), np.int64)
    dense[:, 0] = 8, 10, 9
    dense[2, 1] = 3, 3, 5  # in one image
    dense[:, 2] = 0, 2, 0  # predicted, never true
    better = dense.copy()
    better[2, 1] = 5, 5, 5
    found = paired_class_differences(table(better), table(dense), range(3), 200, 0.95, 0)
    assert found[1].difference == pytest.approx(0.4)
    assert math.isnan(found[1].low)
    assert math.isnan(found[1].high)
    assert found[1].images == 1
    assert (found[0].difference, found[0].low, found[0].high) == (0, 0, 0)
    assert math.isnan(found[2].difference)
    assert found[2].images == 0
    alone = {f"{image:064x}" for image in range(6) if image != 2}
    one = paired_class_differences(
        without_images(table(better), alone), without_images(table(dense), alone), [1], 9, 0.9, 0
    )
    assert one[1].difference == pytest.approx(0.4)
    assert math.isnan(one[1].low)


def test_models_on_other_data_are_not_compared() -> None:
    counts = table(simulate(np.random.default_rng(2), 5))
    other = counts.copy()
    other.loc[other.index[0], "truth"] += 10**6
    with pytest.raises(SegopsError, match="not scored on the same images and masks"):
        paired_class_differences(counts, other, [0, 1], 100, 0.95, 0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    large = np.random.default_rng(98)
    dense = simulate(large, 50_000)
    better = rival(large, dense, 0.03)
    truth = [literal_iou(better, label) - literal_iou(dense, label) for label in range(6)]
    random = np.random.default_rng(0)
    covered, rounds = np.zeros(6), 100
    for seed in range(rounds):
        champion = simulate(random, 30)
        ours, theirs = table(rival(random, champion, 0.03)), table(champion)
        found = paired_class_differences(ours, theirs, range(6), 300, 0.9, seed)
        covered += [one.low <= truth[label] <= one.high for label, one in found.items()]
    # About 12 of the 30 images hold a class other than the first. Three standard errors of 100
    # rounds at 0.9 are 0.09.
    assert covered.min() / rounds >= 0.79
    assert 0.85 <= covered.mean() / rounds <= 0.96


def test_a_whole_voc_val_takes_about_a_second() -> None:
    random = np.random.default_rng(0)
    images, classes = 1449, 21
    present = random.random((images, classes)) < 0.12
    image, label = np.nonzero(present)
    truth = random.integers(1, 50_000, len(image))
    both = (truth * random.random(len(image))).astype(np.int64)
    counts = pd.DataFrame(
        {
            "image_id": [f"{one:06d}" for one in image],
            "image_sha256": [f"{one:064x}" for one in image],
            "class_id": label,
            "intersection": both,
            "predicted": both + random.integers(0, 5000, len(image)),
            "truth": truth,
        }
    )
    other = counts.assign(intersection=both // 2)
    start = time.process_time()
    found = paired_class_differences(other, counts, range(classes), 1000, 0.95, 0)
    # It takes 0.2 s; the bound is for a busy machine.
    assert time.process_time() - start < 2
    assert all(one.high < 0 for one in found.values())
