"""Kinds of error and objects against their definitions spelt out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segops.metrics.boundary import band_width, fill_void
from segops.metrics.slices import EDGE, find_objects
from segops.metrics.wrong_pixels import KINDS, find_errors
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask, patches, scene

BACKGROUNDS = st.sampled_from([0, 2, None])


def literal_kind(
    truth: Mask, filled: Mask, prediction: Mask, row: int, column: int, background: int | None
) -> str | None:
    true, predicted = truth[row, column], prediction[row, column]
    if true in (VOID, predicted):
        return None
    width = band_width(*truth.shape)
    around = np.s_[
        max(0, row - width) : row + width + 1, max(0, column - width) : column + width + 1
    ]
    if (filled[around] == predicted).any() and (prediction[around] == true).any():
        return "boundary"
    if predicted == background:
        return "missed"
    return "false alarm" if true == background else "confusion"


def check_kinds(truth: Mask, prediction: Mask, background: int | None = 0) -> None:
    filled = fill_void(truth)
    kinds, rows = find_errors(truth, filled, prediction, background)
    expected: Counter[tuple[int, str]] = Counter()
    for row, column in np.ndindex(truth.shape):
        kind = literal_kind(truth, filled, prediction, row, column, background)
        assert kinds[row, column] == (0 if kind is None else 1 + KINDS.index(kind))
        if kind is not None:
            true = int(truth[row, column])
            owner = true if true != background else int(prediction[row, column])
            expected[owner, kind] += 1
    assert {(owner, kind): pixels for owner, kind, pixels in rows} == dict(expected)
    assert rows == sorted(rows, key=lambda row: (row[0], KINDS.index(row[1])))


@given(patches(), BACKGROUNDS)
@settings(max_examples=60, deadline=None)
def test_each_wrong_pixel_is_of_one_kind_as_defined(
    masks: tuple[Mask, Mask], background: int | None
) -> None:
    check_kinds(*masks, background)


def test_kinds_of_objects_in_void() -> None:
    truth, prediction = scene(1, shape=(90, 120))
    prediction[2:14, 2:14] = 3
    check_kinds(truth, prediction)


def test_a_missed_object_is_missed_however_small_and_a_shifted_one_is_boundary() -> None:
    truth, prediction = np.zeros((2, 120, 160), np.uint8)  # a band of 4 pixels
    truth[10:14, 10:14] = 1  # missed
    truth[60:100, 20:60], prediction[60:100, 22:62] = 2, 2  # 2 pixels to the right
    truth[60:66, 100:106], prediction[60:66, 100:106] = 3, 4  # taken for another class
    prediction[10:15, 100:105] = 1  # a false alarm
    kinds, rows = find_errors(truth, truth, prediction)
    assert rows == [
        (1, "missed", 16),
        (1, "false alarm", 25),
        (2, "boundary", 160),
        (3, "confusion", 36),
    ]
    assert np.count_nonzero(kinds) == 16 + 25 + 160 + 36


def test_without_errors_there_are_no_rows() -> None:
    truth = np.array([[0, 1, VOID]], np.uint8)
    kinds, rows = find_errors(truth, fill_void(truth), np.array([[0, 1, 1]], np.uint8))
    assert not kinds.any()
    assert rows == []


@given(patches(), BACKGROUNDS)
@settings(max_examples=60, deadline=None)
def test_objects_are_the_connected_components(
    masks: tuple[Mask, Mask], background: int | None
) -> None:
    truth, prediction = masks
    labels = [int(one) for one in np.unique(truth) if one != VOID]
    found = find_objects(truth, prediction, labels, background)
    expected = []
    for label in labels:
        if label == background:
            continue
        components, count = ndimage.label(truth == label, np.ones((3, 3)))
        for index in range(1, count + 1):
            here = components == index
            rows, columns = np.nonzero(here)
            gaps = (
                rows.min(),
                columns.min(),
                *(np.array(truth.shape) - 1 - (rows.max(), columns.max())),
            )
            hit = int((here & (prediction == label)).sum())
            expected.append((label, int(here.sum()), hit, bool(min(gaps) <= EDGE)))
    rows_found = zip(found.label, found.pixels, found.found, found.at_edge, strict=True)
    assert sorted((int(a), int(b), int(c), bool(d)) for a, b, c, d in rows_found) == sorted(
        expected
    )


def test_void_cannot_be_predicted() -> None:
    truth = np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match="holds id 255, which is void"):
        find_errors(truth, truth, truth + VOID)
