"""The scores of labels, on hand-made masks."""

from __future__ import annotations

import numpy as np
import pytest

from segops.quality.label_scores import Segment, Segments, segments, softmin
from segops.runtime.classes import VOID


def canvas() -> np.ndarray:
    return np.zeros((40, 60), np.uint8)


def found(label: np.ndarray, prediction: np.ndarray, sure: float = 0.9) -> list[Segment]:
    top = np.full(label.shape, sure, np.float32)
    return [one for one, _ in segments(label, prediction, top)]


def said(one: Segment) -> tuple[int, int, tuple[int, int, int, int], int]:
    return one.given, one.predicted, one.box, one.pixels


def test_softmin_is_the_mean_weighted_towards_the_lowest() -> None:
    values = np.array([0.9, 0.5, 0.1])
    weights = np.exp((1 - values) / 0.1)
    assert softmin(values) == pytest.approx((values * weights).sum() / weights.sum())
    assert softmin(np.full((3, 4), 0.7, np.float32)) == pytest.approx(0.7)
    assert softmin(np.zeros(0)) is None
    # Neither many pixels nor a few sure ones overflow or underflow.
    assert softmin(np.append(np.ones(10**6), 0.0)) == pytest.approx(0.978, abs=0.001)


def test_equal_masks_have_no_segment() -> None:
    label = canvas()
    label[5:20, 5:20] = 3
    assert found(label, label.copy()) == []


def test_an_object_without_a_label() -> None:
    label, prediction = canvas(), canvas()
    prediction[5:20, 10:30] = 3
    (one,) = found(label, prediction)
    assert said(one) == (0, 3, (10, 5, 30, 20), 300)
    assert one.score == pytest.approx(0.9)


def test_a_label_without_an_object() -> None:
    label, prediction = canvas(), canvas()
    label[5:20, 10:30] = 3
    (one,) = found(label, prediction)
    assert said(one) == (3, 0, (10, 5, 30, 20), 300)


def test_a_label_of_another_class_is_listed_once() -> None:
    label, prediction = canvas(), canvas()
    label[5:20, 10:30] = 3
    prediction[6:20, 10:30] = 4
    (one,) = found(label, prediction)
    assert said(one) == (3, 4, (10, 6, 30, 20), 280)


def test_a_contour_that_lies_off_is_no_contradiction() -> None:
    label, prediction = canvas(), canvas()
    label[5:25, 10:40] = 3
    prediction[8:28, 14:44] = 3
    assert found(label, prediction) == []


def test_a_part_of_an_object_is_held_against_the_whole() -> None:
    label, prediction = canvas(), canvas()
    label[5:35, 5:50] = 3
    prediction[5:10, 5:15] = 3
    # The small prediction agrees with the label where it lies; the label has hardly an object.
    assert [said(one)[:2] for one in found(label, prediction)] == [(3, 0)]


def test_void_is_in_no_segment() -> None:
    label, prediction = canvas(), canvas()
    label[5:20, 10:30] = VOID
    prediction[5:20, 10:30] = 3
    assert found(label, prediction) == []
    label[5:20, 20:30] = 0
    (one,) = found(label, prediction)
    assert said(one) == (0, 3, (20, 5, 30, 20), 150)
    assert found(np.full_like(label, VOID), prediction) == []


def test_a_thin_line_is_noise() -> None:
    label, prediction = canvas(), canvas()
    prediction[5:7, 10:50] = 3
    assert found(label, prediction) == []
    prediction[5:8, 10:13] = 3
    assert len(found(label, prediction)) == 1


def test_the_surest_segment_comes_first() -> None:
    label, prediction = canvas(), canvas()
    prediction[2:10, 2:10], prediction[20:30, 20:30] = 3, 5
    top = np.full(label.shape, 0.6, np.float32)
    top[20:30, 20:30] = 0.8
    (first, pixels), (second, _) = segments(label, prediction, top)
    assert pixels.shape == (10, 10)
    assert pixels.all()
    assert (first.predicted, second.predicted) == (5, 3)
    assert (first.score, second.score) == pytest.approx((0.8, 0.6))


def test_segments_are_kept_as_they_are() -> None:
    given = [
        Segment(0.1234567890123, 0, 254, (1, 2, 70_000, 4), 100_000_000),
        Segment(1.0, 3, 0, (0, 0, 1, 1), 1),
        Segment(0.0, 1, 2, (5, 6, 7, 8), 9),
    ]
    kept = Segments(given)
    assert list(kept) == given
    assert (len(kept), kept[1], kept[:2]) == (3, given[1], given[:2])
    assert list(Segments(())) == []
