"""Boundary figures against the reference code and a brute-force statement of the formulas."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from segops.metrics.boundary import (
    band,
    band_width,
    boundary_counts,
    contour,
    fill_void,
    nearest_distances,
    tolerance,
    wide_void,
)
from segops.metrics.counts import BoundaryCounts
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask, patches, scene

CLASSES = 4


def reference_boundary(mask: Mask, dilation: int) -> Mask:
    """``mask_to_boundary`` of Cheng et al.'s reference code, for one binary mask."""
    height, width = mask.shape
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)
    return mask - eroded[1 : height + 1, 1 : width + 1]


def count(truth: Mask, prediction: Mask, classes: int = CLASSES) -> BoundaryCounts:
    return boundary_counts(truth, fill_void(truth), prediction, classes)


def contour_points(mask: Mask, label: int, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of a class with a 4-neighbour of another, spelt out."""
    height, width = mask.shape
    points = []
    for row, column in np.argwhere((mask == label) & counted):
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= near[0] < height and 0 <= near[1] < width
            if inside and mask[near] != label:
                points.append((row, column))
                break
    return np.array(points, np.int64).reshape(-1, 2)


def literal_contours(truth: Mask, prediction: Mask, label: int) -> dict[str, float]:
    """Boundary F1 and distances of one class of one image from all pairs of contour pixels."""
    side = max(11, 2 * math.ceil(tolerance(*truth.shape)) + 1)
    square = np.ones((side, side), bool)
    eroded = ndimage.binary_erosion(truth == VOID, square, border_value=1)
    counted = ~ndimage.binary_dilation(eroded, square)
    true = contour_points(fill_void(truth), label, counted)
    found = contour_points(prediction, label, counted)
    values = {"true": len(true), "found": len(found)}
    if len(true) and len(found):
        pairs = cdist(true, found)
        there, back = pairs.min(axis=1), pairs.min(axis=0)
        values["true near"] = int((there <= tolerance(*truth.shape)).sum())
        values["found near"] = int((back <= tolerance(*truth.shape)).sum())
        values["sum"] = float(there.sum() + back.sum())
        values["hausdorff"] = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    return values


def check_contours(truth: Mask, prediction: Mask) -> None:
    found = count(truth, prediction)
    for label in range(CLASSES):
        expected = literal_contours(truth, prediction, label)
        assert found.contour_truth[label] == expected["true"]
        assert found.contour_predicted[label] == expected["found"]
        assert found.truth_near[label] == expected.get("true near", 0)
        assert found.predicted_near[label] == expected.get("found near", 0)
        assert found.distance[label] == pytest.approx(expected.get("sum", 0), abs=1e-9)
        assert found.hausdorff[label] == pytest.approx(expected.get("hausdorff", 0), abs=1e-9)
        assert found.pairs[label] == ("sum" in expected)


@given(patches(void=False), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_band_of_all_classes_is_that_of_the_reference_code(
    masks: tuple[Mask, Mask], width: int
) -> None:
    for mask in masks:
        found = band(mask, width)
        for label in range(CLASSES):
            one = (mask == label).astype(np.uint8)
            expected = reference_boundary(one, width)
            np.testing.assert_array_equal(found & (mask == label), expected.astype(bool))


@given(patches())
@settings(max_examples=40, deadline=None)
def test_boundary_iou_is_that_of_the_reference_code_without_void(masks: tuple[Mask, Mask]) -> None:
    check_bands(*masks)


@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_of_objects_in_void_is_that_of_the_reference_code(seed: int) -> None:
    check_bands(*scene(seed, shape=(225, 300)))  # a band of 8 pixels


def check_bands(truth: Mask, prediction: Mask) -> None:
    found = count(truth, prediction)
    if np.all(truth == VOID):
        assert not found.band_truth.any()
        assert not found.band_predicted.any()
        return
    filled, counted = fill_void(truth), truth != VOID
    for label in range(CLASSES):
        width = band_width(*truth.shape)
        one, other = (
            reference_boundary((mask == label).astype(np.uint8), width).astype(bool) & counted
            for mask in (filled, prediction)
        )
        both, either = int((one & other).sum()), int((one | other).sum())
        if either:
            assert found.iou()[label] == both / either
        else:
            assert math.isnan(found.iou()[label])


@given(patches())
@settings(max_examples=40, deadline=None)
def test_contours_equal_brute_force(masks: tuple[Mask, Mask]) -> None:
    check_contours(*masks)


@pytest.mark.parametrize("seed", range(2))
def test_contours_of_objects_in_void_equal_brute_force(seed: int) -> None:
    truth, prediction = scene(seed, shape=(150, 200))
    truth[:, :30] = VOID  # a wide void with a contour of the prediction in it
    prediction[60:90, 5:25] = 3
    check_contours(truth, prediction)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_nearest_distances_equal_all_pairs(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 80))
    points, targets = (
        np.array(
            data.draw(
                st.lists(
                    st.tuples(st.integers(0, size), st.integers(0, size)), min_size=1, max_size=40
                )
            ),
            np.intp,
        ).T
        for _ in range(2)
    )
    expected = cdist(points.T, targets.T).min(axis=1)
    np.testing.assert_allclose(nearest_distances(points, targets), expected, atol=1e-12)


@given(patches())
@settings(max_examples=40, deadline=None)
def test_void_is_filled_with_the_nearest_label(masks: tuple[Mask, Mask]) -> None:
    truth = masks[0]
    before = truth.copy()
    filled = fill_void(truth)
    np.testing.assert_array_equal(truth, before)
    known = truth != VOID
    if not known.any():
        np.testing.assert_array_equal(filled, truth)
        return
    np.testing.assert_array_equal(filled[known], truth[known])
    assert (filled != VOID).all()
    nearest = ndimage.distance_transform_edt(~known)
    for label in np.unique(filled):
        to_label = ndimage.distance_transform_edt(truth != label)
        taken = (filled == label) & ~known
        # OpenCV's distance is within 2 % of the Euclidean one.
        assert (to_label[taken] <= 1.04 * nearest[taken] + 1e-6).all()


def test_a_worked_example() -> None:
    # 6x8, halves; the prediction has the contour one column to the right. The diagonal is 10, so
    # the band is 1 wide and the tolerance 1 pixel.
    truth, prediction = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    truth[:, 4:], prediction[:, 5:] = 1, 1
    found = count(truth, prediction, 2)
    # Class 1 is 6x4 in the truth and 6x3 in the prediction; without a rim of 1, 4x2 and 4x1.
    assert found.band_truth[1] == 24 - 8
    assert found.band_predicted[1] == 18 - 4
    assert found.band_both[1] == 10  # rows 0 and 5 of three columns, and the rest of the last one
    assert found.iou()[1] == 0.5
    assert found.contour_truth.tolist() == found.contour_predicted.tolist() == [6, 6]
    assert found.f1().tolist() == [1, 1]
    assert found.contour_distance().tolist() == found.hausdorff95().tolist() == [1, 1]
    prediction[:, 5] = 0  # now two columns
    found = count(truth, prediction, 2)
    assert found.f1().tolist() == [0, 0]
    assert found.contour_distance().tolist() == found.hausdorff95().tolist() == [2, 2]


def test_figures_of_a_split_come_from_sums() -> None:
    total = BoundaryCounts.zeros(2)
    truth, near, far = (np.zeros((10, 60), np.uint8) for _ in range(3))
    truth[:, 30:], near[:, 31:], far[:, 40:] = 1, 1, 1
    for prediction in (near, near, far):
        total.add(count(truth, prediction, 2))
    assert total.f1().tolist() == [pytest.approx(2 / 3)] * 2
    assert total.contour_distance().tolist() == [4, 4]  # (1 + 1 + 10) / 3
    assert total.hausdorff95().tolist() == [4, 4]


def test_the_contour_in_the_middle_of_a_strip_of_void_counts() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[:, 40:] = 1
    truth[:, 39:41] = VOID
    prediction = np.zeros_like(truth)
    prediction[:, 40:] = 1
    assert wide_void(truth) is None
    found = count(truth, prediction, 2)
    assert found.contour_truth.tolist() == [60, 60]
    assert found.contour_distance().tolist() == [0, 0]
    assert found.f1().tolist() == [1, 1]


def test_nothing_deep_in_wide_void_counts() -> None:
    truth, prediction = scene(0)
    truth[:40, :] = VOID
    plain = count(truth, prediction)
    prediction[5:25, 20:60] = 3  # a contour more than the band's width from any label
    again = count(truth, prediction)
    for name in plain.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(plain, name), getattr(again, name))


@pytest.mark.parametrize("label", [0, 1, VOID])
def test_one_pixel_has_a_band_and_no_contour(label: int) -> None:
    found = count(np.full((1, 1), label, np.uint8), np.zeros((1, 1), np.uint8), 2)
    assert np.isnan(found.f1()).all()
    assert np.isnan(found.contour_distance()).all()
    assert (
        np.nan_to_num(found.iou(), nan=-1).tolist()
        == ({0: [1, -1], 1: [0, 0], VOID: [-1, -1]}[label])
    )


def test_a_class_without_a_counterpart_scores_0_and_has_no_distance() -> None:
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[5:9, 5:9], prediction[12:15, 12:15] = 1, 2
    found = count(truth, prediction)
    assert found.iou()[1] == found.iou()[2] == found.f1()[1] == found.f1()[2] == 0
    assert np.isnan(found.contour_distance()[1:]).all()
    assert math.isnan(found.iou()[3])
    assert math.isnan(found.f1()[3])


def test_the_edge_of_the_image_is_no_contour() -> None:
    assert not contour(np.zeros((5, 7), np.uint8)).any()
    assert band(np.zeros((5, 7), np.uint8), 1).sum() == 35 - 15


def test_an_id_that_is_no_class_is_refused() -> None:
    truth = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="no class"):
        boundary_counts(truth, truth, truth + np.uint8(9), 3)


def test_widths_are_the_published_shares_of_the_diagonal() -> None:
    """2 % (Cheng et al.) and 0.75 % (Csurka et al.) of 500 pixels; at least 1."""
    assert band_width(300, 400) == 10
    assert tolerance(300, 400) == pytest.approx(3.75)
    assert (band_width(5, 5), tolerance(5, 5)) == (1, 1.0)
    square = np.zeros((300, 400), np.uint8)
    square[100:200, 100:200] = 1
    assert np.count_nonzero(band(square, band_width(300, 400)) & (square == 1)) == 100**2 - 80**2
