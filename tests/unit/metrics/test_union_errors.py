"""Errors over the union against their definition spelt out, and against counted pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from scipy import ndimage

from segops.metrics.boundary import fill_void
from segops.metrics.catalogue import compute_metrics
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import SplitCounts, UnionErrorCounts
from segops.metrics.iou import class_pixels, iou
from segops.metrics.union_errors import union_errors
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask, patches, scene

CLASSES = 4
EIGHT = np.ones((3, 3), bool)
Region = NDArray[np.bool_]


def count(truth: Mask, prediction: Mask) -> UnionErrorCounts:
    confusion = confusion_matrix(truth, prediction, CLASSES)
    return union_errors(truth, fill_void(truth), prediction, confusion)


def grown(region: Region, width: int) -> Region:
    return ndimage.maximum_filter(region, 2 * width + 1, mode="constant", cval=0)


def literal(truth: Mask, prediction: Mask, label: int) -> tuple[int, int, int]:
    """The published definition of one class, a component at a time."""
    width = max(1, round(0.01 * math.hypot(*truth.shape)))
    true, predicted = fill_void(truth) == label, prediction == label
    right, neither = true & predicted, ~true & ~predicted
    counts = np.zeros(3, int)
    for side in (true, predicted):
        wrong = side & ~right
        core = wrong & grown(right, width) & grown(neither, width)
        parts, number = ndimage.label(wrong & grown(core, width), EIGHT)
        boundary = np.zeros(truth.shape, bool)
        for part in range(1, number + 1):
            around = grown(parts == part, 1)
            if (around & right).any() and (around & neither).any():
                boundary |= parts == part
        kinds = np.where(boundary, 0, 2)
        segments, number = ndimage.label(side, EIGHT)
        for segment in range(1, number + 1):
            here = segments == segment
            if (here & right).any():
                kinds[here & ~boundary] = 1
        counts += np.bincount(kinds[wrong & (truth != VOID)], minlength=3)
    return int(counts[0]), int(counts[1]), int(counts[2])


def check(truth: Mask, prediction: Mask) -> None:
    found = count(truth, prediction)
    for label in range(CLASSES):
        kinds = found.boundary[label], found.extent[label], found.segment[label]
        assert kinds == literal(truth, prediction, label)
    pixels = class_pixels(confusion_matrix(truth, prediction, CLASSES))
    wrong = found.boundary + found.extent + found.segment
    union = pixels.truth + pixels.predicted - pixels.intersection
    np.testing.assert_array_equal(found.union, union)
    np.testing.assert_array_equal(wrong, found.union - pixels.intersection)


@given(patches())
@settings(max_examples=80, deadline=None)
def test_each_wrong_pixel_of_a_class_is_of_the_kind_that_is_defined(
    masks: tuple[Mask, Mask],
) -> None:
    check(*masks)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_for_a_distance_of_more_than_a_pixel(seed: int) -> None:
    truth, prediction = scene(seed, shape=(240, 320))  # a distance of 4
    prediction[np.roll(truth, 40, 0) == 2] = 3
    prediction[100:104, 10:300:7] = 1
    check(truth, prediction)


def test_a_worked_example() -> None:
    truth, prediction = np.zeros((2, 300, 400), np.uint8)  # a diagonal of 500: a distance of 5
    truth[50:100, 50:100] = 1  # found 3 pixels to the right
    prediction[50:100, 53:103] = 1
    truth[150:160, 50:60] = 1  # missed
    prediction[150:158, 200:208] = 1  # invented
    truth[200:250, 50:100] = 2  # 20 columns too wide
    prediction[200:250, 50:120] = 2
    found = count(truth, prediction)
    assert (found.boundary[1], found.extent[1], found.segment[1]) == (2 * 3 * 50, 0, 100 + 64)
    # The upper and the lower 5 x 5 pixels of the strip are near a right pixel and near one of
    # neither mask; what is near them as well makes it 10 x 10 each.
    assert (found.boundary[2], found.extent[2], found.segment[2]) == (200, 50 * 20 - 200, 0)
    assert found.segment[0] == 0  # background was found, and is too small or too large
    assert found.boundary.tolist()[3:] == found.union.tolist()[3:] == [0]
    # A class over its union: 50 x 53 of the first, the missed and the invented one.
    assert found.union[1] == 50 * 53 + 164
    assert found.boundary_error()[1] == 300 / found.union[1]
    assert found.segment_error()[1] == 164 / found.union[1]
    assert found.extent_error()[2] == 800 / (50 * 70)


def test_void_counts_in_no_number() -> None:
    truth = np.full((40, 60), VOID, np.uint8)
    truth[:, :20], truth[:, 40:] = 0, 1
    prediction = np.zeros_like(truth)
    prediction[:, 25:] = 1  # in the middle of void, where nobody knows
    found = count(truth, prediction)
    assert not any(part.any() for part in (found.boundary, found.extent, found.segment))
    prediction[:, 35:] = 0
    assert count(truth, prediction).union[1] == 40 * 20


@given(patches())
@settings(max_examples=30, deadline=None)
def test_the_three_errors_add_up_to_what_iou_lacks(masks: tuple[Mask, Mask]) -> None:
    confusion = confusion_matrix(*masks, CLASSES)
    pixels = class_pixels(confusion)
    names = [str(one) for one in range(CLASSES)]
    metrics = compute_metrics(SplitCounts(pixels, union_errors=count(*masks)), names)
    for label, figures in enumerate(metrics["classes"].values()):
        kinds = [figures[f"{kind}_error"] for kind in ("boundary", "extent", "segment")]
        if math.isnan(value := iou(*pixels)[label]):
            assert kinds == [None, None, None]
        else:
            assert sum(kinds) == pytest.approx(1 - value, abs=1e-12)
    if metrics["miou"] is not None:
        whole = metrics["miou"] + sum(metrics["union_errors"].values())
        assert whole == pytest.approx(1, abs=1e-12)
