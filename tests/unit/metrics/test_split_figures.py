"""Everything about one image, and its sum over a split."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segops.metrics.catalogue import compute_metrics
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import BoundaryCounts
from segops.metrics.iou import class_pixels, miou
from segops.metrics.split_figures import ImageFigures, SplitFigures, judge_image
from segops.metrics.wrong_pixels import KINDS
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask, patches, scene

NAMES = ("background", "cat", "chair", "sofa")
SLICES = [
    "small",
    "medium",
    "large",
    "at the border",
    "inside",
    "crowded",
    "sparse",
]


def confidence(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def judge(truth: Mask, prediction: Mask) -> ImageFigures:
    return judge_image(truth, prediction, len(NAMES), confidence(truth.shape))


def of_split(images: list[ImageFigures]) -> SplitFigures:
    split = SplitFigures(NAMES)
    for one in images:
        split.add(one)
    return split


def summary(split: SplitFigures) -> dict[str, Any]:
    return compute_metrics(split.counts, NAMES) | split.summary()


def boundary(figures: ImageFigures) -> dict[str, NDArray[np.float64]]:
    return {one.name: getattr(figures.boundary, one.name) for one in fields(BoundaryCounts)}


@given(st.lists(patches(), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_images_and_images_of_void_change_nothing(
    pairs: list[tuple[Mask, Mask]], random: object
) -> None:
    images = [judge(*pair) for pair in pairs]
    expected = summary(of_split(images))
    random.shuffle(images)  # type: ignore[attr-defined]
    images.append(judge(np.full((9, 7), VOID, np.uint8), np.full((9, 7), 3, np.uint8)))
    found = summary(of_split(images))
    assert_close(found, expected)


def assert_close(found: object, expected: object) -> None:
    """Equal; figures that come from sums of fractions up to their rounding."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-12)
    else:
        assert found == expected


@given(patches(), st.permutations([1, 2, 3]))
@settings(max_examples=30, deadline=None)
def test_other_ids_for_the_same_objects_only_move_the_figures(
    masks: tuple[Mask, Mask], ids: list[int]
) -> None:
    table = np.arange(256, dtype=np.uint8)
    table[1:4] = ids
    plain, moved = judge(*masks), judge(table[masks[0]], table[masks[1]])
    order = table[:4]
    np.testing.assert_array_equal(moved.confusion[np.ix_(order, order)], plain.confusion)
    np.testing.assert_array_equal(moved.kinds, plain.kinds)
    renamed = [(int(table[label]), kind, pixels) for label, kind, pixels in plain.errors]
    assert sorted(renamed) == sorted(moved.errors)
    for name, values in boundary(plain).items():
        np.testing.assert_array_equal(boundary(moved)[name][order], values, err_msg=name)
    assert moved.objects.pixels.sum() == plain.objects.pixels.sum()


@pytest.mark.parametrize("seed", range(3))
def test_what_scales_with_the_pixels_is_four_times_as_much_in_2x2_tiles(seed: int) -> None:
    # The objects lie far from the seams, so each contour finds its counterpart in its own tile.
    # Bands and the tolerance are shares of the diagonal and so twice as wide: they do not scale.
    truth, prediction = scene(seed)
    top = confidence(truth.shape)
    plain = judge_image(truth, prediction, 4, top)
    tiled = judge_image(
        *(np.tile(one, (2, 2)) for one in (truth, prediction)), 4, np.tile(top, (2, 2))
    )
    np.testing.assert_array_equal(tiled.confusion, 4 * plain.confusion)
    assert plain.calibration is not None
    assert tiled.calibration is not None
    np.testing.assert_array_equal(tiled.calibration.pixels, 4 * plain.calibration.pixels)
    np.testing.assert_array_equal(tiled.calibration.right, 4 * plain.calibration.right)
    assert tiled.calibration.error() == pytest.approx(plain.calibration.error(), abs=1e-12)
    assert len(tiled.objects.pixels) == 4 * len(plain.objects.pixels)
    for name in ("contour_truth", "contour_predicted", "distance", "distances"):
        np.testing.assert_allclose(
            boundary(tiled)[name], 4 * boundary(plain)[name], rtol=1e-12, err_msg=name
        )
    np.testing.assert_allclose(
        tiled.boundary.contour_distance()[:3], plain.boundary.contour_distance()[:3], rtol=1e-12
    )


@given(patches())
@settings(max_examples=30, deadline=None)
def test_errors_are_what_lies_off_the_diagonal(masks: tuple[Mask, Mask]) -> None:
    figures = judge(*masks)
    np.testing.assert_array_equal(figures.confusion, confusion_matrix(*masks, len(NAMES)))
    off = int(figures.confusion.sum() - figures.confusion.trace())
    assert np.count_nonzero(figures.kinds) == off
    split = of_split([figures])
    assert sum(split.errors.values()) == sum(pixels for *_, pixels in figures.errors) == off
    assert sum(one["pixels"] for one in split.summary()["confusions"]) == off
    for kind, pixels in split.errors.items():
        assert np.count_nonzero(figures.kinds == 1 + KINDS.index(kind)) == pixels


def test_a_perfect_prediction_is_perfect_everywhere() -> None:
    truth, _ = scene(0, void=0)
    split = of_split([judge_image(truth, truth.copy(), 4, np.ones(truth.shape, np.float32))])
    found = summary(split)
    assert found["boundary"] == {
        "iou": 1.0,
        "f1": 1.0,
        "contour_distance": 0.0,
        "hausdorff95": 0.0,
        "band": 0.02,
        "tolerance": 0.0075,
    }
    assert found["calibration"]["expected_calibration_error"] == 0
    assert found["confusions"] == []
    assert found["errors"] == dict.fromkeys(KINDS, 0)
    for name in ("boundary_iou", "boundary_f1", "contour_distance", "hausdorff95"):
        assert found["classes"]["sofa"][name] is None


def test_slices_of_a_worked_example() -> None:
    truth, prediction = np.zeros((2, 200, 300), np.uint8)
    truth[20:30, 20:30] = 1  # small, half found
    prediction[20:30, 20:25] = 1
    truth[80:120, 100:140] = 2  # medium, a quarter found
    prediction[80:90, 100:140] = 2
    truth[0:100, 160:290] = 3  # large, at the edge of the image, all found
    prediction[0:100, 160:290] = 3
    crowd, empty = np.zeros((2, 200, 300), np.uint8)
    crowd[20:180:30, 50] = 1
    split = of_split([judge(truth, prediction), judge(crowd, empty)])
    rows = {one["name"]: one for one in split.summary()["slices"]}
    assert list(rows) == SLICES
    figures = ("objects", "images", "pixels", "recall", "found")
    expected = {
        "small": (7, 2, 106, 50 / 106, 1 / 7),
        "medium": (1, 1, 1600, 0.25, 0.0),
        "large": (1, 1, 13000, 1.0, 1.0),
        "at the border": (1, 1, 13000, 1.0, 1.0),
        "inside": (8, 2, 1706, 450 / 1706, 1 / 8),
        "crowded": (6, 1, 6, 0.0, 0.0),
        "sparse": (3, 1, 14700, 13450 / 14700, 2 / 3),
    }
    for name, values in expected.items():
        assert tuple(rows[name][figure] for figure in figures) == values, name
    assert rows["small"]["miou"] is None
    assert rows["sparse"]["miou"] == miou(*class_pixels(confusion_matrix(truth, prediction, 4)))
    assert rows["crowded"]["miou"] == miou(*class_pixels(confusion_matrix(crowd, empty, 4)))


def test_the_largest_confusions_come_first() -> None:
    truth = np.repeat(np.array([0, 2, 3, 3], np.uint8), 10)[None]
    prediction = truth.copy()
    prediction[0, 30:37] = 2  # 7 of 20 pixels of sofa taken for chair
    prediction[0, :2] = 1
    assert of_split([judge(truth, prediction)]).summary()["confusions"] == [
        {"truth": "sofa", "predicted": "chair", "pixels": 7, "share": 0.35},
        {"truth": "background", "predicted": "cat", "pixels": 2, "share": 0.2},
    ]


def test_a_stray_class_is_in_no_mean() -> None:
    truth, prediction = np.zeros((2, 60, 80), np.uint8)
    truth[20:40, 20:40], prediction[20:40, 20:40] = 1, 1
    prediction[45:55, 60:70] = 2
    found = summary(of_split([judge(truth, prediction)]))
    classes = found["classes"]
    assert classes["chair"]["boundary_iou"] == 0
    assert classes["chair"]["boundary_f1"] == 0
    means = [classes[name]["boundary_f1"] for name in ("background", "cat")]
    assert found["boundary"]["f1"] == pytest.approx(sum(means) / 2)


def test_without_pixels_or_confidences_json_says_null() -> None:
    void = np.full((1, 1), VOID, np.uint8)
    split = of_split([judge_image(void, void * 0, 4)])
    found = json.loads(json.dumps(summary(split), allow_nan=False))
    assert "calibration" not in found
    assert found["boundary"]["iou"] is None
    assert {one["images"] for one in found["slices"]} == {0}
    one = np.ones((1, 1), np.uint8)
    found = summary(of_split([judge_image(one, one, 4)]))
    assert found["boundary"]["iou"] == 1
    assert found["boundary"]["f1"] is None
    assert found["slices"][0]["found"] == 1


def test_several_threads_find_the_same_and_the_sum_stays_small() -> None:
    pairs = [scene(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda pair: judge(*pair), pairs))
    expected = [judge(*pair) for pair in pairs]
    assert summary(of_split(images)) == summary(of_split(expected))
    # Counts alone: as large after one image as after many.
    assert len(pickle.dumps(of_split(images[:1]))) == pytest.approx(
        len(pickle.dumps(of_split(images * 20))), abs=100
    )


def test_views_and_read_only_masks_are_judged_like_copies() -> None:
    truth, prediction = scene(0)
    expected = judge(truth, prediction)
    turned = [np.ascontiguousarray(one[::-1, ::-1])[::-1, ::-1] for one in (truth, prediction)]
    for one in turned:
        one.flags.writeable = False
    np.testing.assert_array_equal(judge(*turned).kinds, expected.kinds)
    np.testing.assert_array_equal(judge(*turned).boundary.distance, expected.boundary.distance)


def test_an_id_that_is_no_class_is_an_error() -> None:
    truth = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="prediction holds id 4"):
        judge(truth, truth + np.uint8(4))
