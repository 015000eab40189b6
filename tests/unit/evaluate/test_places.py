"""Which images the figures of the page lie in."""

from __future__ import annotations

import numpy as np
import pytest

from segops.evaluate import places
from segops.evaluate.places import COLUMNS, FIGURES, find_places, places_of, table_of
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import class_pixels
from segops.metrics.slices import Slices, slice_pixels
from segops.metrics.split_figures import ImageFigures, judge_image
from tests.support.metric_cases import scene


def judged(seed: int) -> ImageFigures:
    truth, prediction = scene(seed)
    top = np.random.default_rng(seed).random(truth.shape, dtype=np.float32)
    return judge_image(truth, prediction, 4, top)


def test_the_places_of_images_add_up_to_the_figures() -> None:
    images = [judged(seed) for seed in range(4)]
    table = table_of([places_of(index, one) for index, one in enumerate(images)])
    assert list(table) == list(COLUMNS)
    assert (table["pixels"] > 0).all()
    sums = table.groupby(["figure", "row", "column"])["pixels"].sum()
    confusion = sum(one.confusion for one in images)
    assert sums[FIGURES.index("cell")].to_dict() == {
        (row, column): confusion[row, column] for row, column in np.argwhere(confusion)
    }
    union = sums[FIGURES.index("union")]
    for kind, name in enumerate(("boundary", "extent", "segment")):
        expected = sum(getattr(one.union_errors, name) for one in images)
        np.testing.assert_array_equal(
            [union.get((label, kind), 0) for label in range(4)], expected, err_msg=name
        )
    both, predicted, truth = class_pixels(confusion)
    of_class = sums[FIGURES.index("iou")]
    np.testing.assert_array_equal(
        [of_class.get((label, 0), 0) for label in range(4)], predicted + truth - 2 * both
    )
    by_kind = sums[FIGURES.index("kind")]
    expected = [sum(int((one.kinds == 1 + kind).sum()) for one in images) for kind in range(4)]
    assert [by_kind.get((kind, 0), 0) for kind in range(4)] == expected
    assert sum(expected) == confusion.sum() - confusion.trace()
    wrong = sum(
        one.calibration.pixels - one.calibration.right
        for one in images
        if one.calibration is not None
    )
    bins = sums[FIGURES.index("bin")]
    np.testing.assert_array_equal([bins.get((index, 0), 0) for index in range(len(wrong))], wrong)


def test_pixels_of_slices_are_those_of_the_slices_table() -> None:
    slices, pixels = Slices(4), np.zeros(7, np.int64)
    for seed in range(4):
        one = judged(seed)
        slices.add(one.objects, one.confusion)
        pixels += slice_pixels(one.objects, one.confusion)
    rows = slices.summary()
    assert pixels[:5].tolist() == [one["pixels"] for one in rows[:5]]
    assert pixels[5:].sum() == sum(judged(seed).confusion.sum() for seed in range(4))


def test_a_figure_lists_the_images_with_most_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((40, 40), np.uint8)
    rows = []
    for index, pixels in enumerate((3, 9, 0, 5)):
        prediction = truth.copy()
        prediction[0, :pixels] = 2
        figures = judge_image(truth, prediction, 4)
        assert figures.confusion.tolist() == confusion_matrix(truth, prediction, 4).tolist()
        rows.append(places_of(index, figures))
    scored, listed = ("a", "b", "c", "d"), ("d", "c", "b")  # a is not in the page's table
    found = find_places(table_of(rows), scored, listed)
    assert found["cell-0-2"].images == 3
    assert found["cell-0-2"].rows == ((2, 9), (0, 5))
    assert found["union-2-2"] == found["cell-0-2"]  # a segment invented
    assert not any(key.startswith("bin") for key in found)  # no confidences
    monkeypatch.setattr(places, "MOST", 1)
    assert find_places(table_of(rows), scored, listed)["cell-0-2"].rows == ((2, 9),)
    assert find_places(table_of([]), (), ()) == {}
