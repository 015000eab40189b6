"""Expected calibration error against its formula and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from segops.metrics.calibration import calibration_counts
from segops.metrics.counts import BINS, CalibrationCounts
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask

Top = NDArray[np.float32]


def case(seed: int, size: int = 40) -> tuple[Mask, Mask, Top, NDArray[np.float32]]:
    """Truth with void, prediction, its probability, and the probabilities of 5 classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, (size, size), dtype=np.uint8)
    truth[random.random(truth.shape) < 0.2] = VOID
    logits = random.normal(size=(5, size, size)) * random.uniform(0.5, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    probabilities = probabilities.astype(np.float32)
    prediction = probabilities.argmax(axis=0).astype(np.uint8)
    return truth, prediction, probabilities.max(axis=0), probabilities


def literal(truth: Mask, prediction: Mask, top: Top) -> tuple[float, list[int]]:
    """Guo et al., equations 1 to 3, pixel by pixel in float64."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    counted = 0
    for true, predicted, confidence in zip(
        truth.ravel(), prediction.ravel(), top.ravel(), strict=True
    ):
        if true == VOID:
            continue
        counted += 1
        for index in range(BINS):
            low, high = index / BINS, (index + 1) / BINS
            if low < float(confidence) <= high or (index == 0 and confidence == 0):
                bins[index].append((float(confidence), bool(true == predicted)))
    error = 0.0
    for members in bins:
        if members:
            accuracy = sum(right for _, right in members) / len(members)
            confidence = sum(value for value, _ in members) / len(members)
            error += len(members) / counted * abs(accuracy - confidence)
    return error, [len(members) for members in bins]


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_formula_and_torchmetrics(seed: int) -> None:
    truth, prediction, top, probabilities = case(seed)
    found = calibration_counts(truth, prediction, top)
    error, pixels = literal(truth, prediction, top)
    assert found.pixels.tolist() == pixels
    assert found.error() == pytest.approx(error, abs=1e-12)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities)[None],
        torch.from_numpy(truth)[None].long(),
        num_classes=5,
        n_bins=BINS,
        norm="l1",
        ignore_index=VOID,
    )
    assert found.error() == pytest.approx(float(theirs), abs=1e-6)


def test_bins_equal_scikit_learn() -> None:
    truth, prediction, top, _ = case(7)
    found = calibration_counts(truth, prediction, top)
    counted = truth != VOID
    right = (truth == prediction)[counted]
    accuracy, confidence = calibration_curve(right, top[counted], n_bins=BINS)
    filled = found.pixels > 0
    np.testing.assert_allclose((found.right / found.pixels.clip(1))[filled], accuracy, atol=1e-12)
    mean = (found.confidence / found.pixels.clip(1))[filled]
    np.testing.assert_allclose(mean, confidence, atol=1e-6)


def test_counts_add_up_over_images() -> None:
    total = CalibrationCounts.zeros()
    parts = [case(seed) for seed in range(3)]
    for truth, prediction, top, _ in parts:
        total.add(calibration_counts(truth, prediction, top))
    together = [np.vstack([part[index] for part in parts]) for index in range(3)]
    whole = calibration_counts(*together)
    np.testing.assert_array_equal(total.pixels, whole.pixels)
    np.testing.assert_array_equal(total.right, whole.right)
    assert total.error() == pytest.approx(whole.error(), abs=1e-12)


def test_a_worked_example() -> None:
    truth = np.array([[0, 1, 1, VOID]], np.uint8)
    prediction = np.array([[0, 0, 1, 1]], np.uint8)
    top = np.array([[0.7, 0.7, 0.9, 0.1]], np.float32)
    found = calibration_counts(truth, prediction, top)
    # Bin (0.667, 0.733]: half right at 0.7; bin (0.867, 0.933]: all right at 0.9.
    assert found.error() == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.1)
    assert found.mean_confidence() == pytest.approx(2.3 / 3)
    filled = [one for one in found.bins() if one["pixels"]]
    assert [(one["pixels"], one["accuracy"]) for one in filled] == [(2, 0.5), (1, 1.0)]
    assert found.bins()[0] == {
        "low": 0.0,
        "high": 1 / BINS,
        "pixels": 0,
        "confidence": None,
        "accuracy": None,
    }


def test_0_and_1_and_a_little_more_are_in_the_outer_bins() -> None:
    zeros = np.zeros((1, 3), np.uint8)
    found = calibration_counts(zeros, zeros, np.array([[0, 1, 1.00001]], np.float32))
    assert found.pixels.tolist() == [1] + [0] * 13 + [2]


def test_a_model_that_is_sure_and_right_has_no_error() -> None:
    zeros = np.zeros((4, 4), np.uint8)
    assert calibration_counts(zeros, zeros, np.ones((4, 4), np.float32)).error() == 0
    assert calibration_counts(zeros, zeros + 1, np.ones((4, 4), np.float32)).error() == 1


def test_void_alone_has_no_figure() -> None:
    void = np.full((3, 3), VOID, np.uint8)
    assert math.isnan(calibration_counts(void, void * 0, np.ones((3, 3), np.float32)).error())


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (np.ones((2, 2), np.float64), "top is float64"),
        (np.ones((2, 3), np.float32), "shape"),
        (np.full((2, 2), 1.5, np.float32), "expected probabilities"),
        (np.full((2, 2), -0.1, np.float32), "expected probabilities"),
        (np.full((2, 2), np.nan, np.float32), "expected probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(top: Top, words: str) -> None:
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=words):
        calibration_counts(zeros, zeros, top)
