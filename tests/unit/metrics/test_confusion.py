"""The confusion matrix against torchmetrics, scikit-learn and its literal definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segops.metrics.confusion import confusion_matrix
from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]


@st.composite
def masks(draw: st.DrawFn) -> tuple[Mask, Mask, int]:
    """Truth with void and absent classes, prediction, number of classes."""
    classes = draw(st.integers(1, 25))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
    present = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=4))
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([*present, VOID])))
    prediction = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    return truth, prediction, classes


def literal(truth: Mask, prediction: Mask, classes: int) -> NDArray[np.int64]:
    counts = np.zeros((classes, classes), dtype=np.int64)
    for expected, found in zip(truth.ravel(), prediction.ravel(), strict=True):
        if expected != VOID:
            counts[expected, found] += 1
    return counts


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(masks())
@settings(max_examples=150, deadline=None)
def test_equals_literal_torchmetrics_and_sklearn(case: tuple[Mask, Mask, int]) -> None:
    truth, prediction, classes = case
    found = confusion_matrix(truth, prediction, classes)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, literal(truth, prediction, classes))
    counted = truth != VOID
    if counted.any():
        expected = sklearn_confusion(truth[counted], prediction[counted], labels=range(classes))
        np.testing.assert_array_equal(found, expected)
    if classes > 1:
        theirs = multiclass_confusion_matrix(
            torch.from_numpy(prediction).long(),
            torch.from_numpy(truth).long(),
            num_classes=classes,
            ignore_index=VOID,
        )
        np.testing.assert_array_equal(found, theirs.numpy())


@given(masks(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_void_order_and_names_do_not_matter(case: tuple[Mask, Mask, int], random: object) -> None:
    truth, prediction, classes = case
    found = confusion_matrix(truth, prediction, classes)
    # More void pixels change nothing, whatever is predicted there.
    void = np.full((3, truth.shape[1]), VOID, np.uint8)
    stray = np.full_like(void, classes - 1)
    wider = confusion_matrix(np.vstack([truth, void]), np.vstack([prediction, stray]), classes)
    np.testing.assert_array_equal(found, wider)
    # The order of pixels, and so of images, changes nothing.
    order = np.arange(truth.size)
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = confusion_matrix(
        truth.ravel()[order][None], prediction.ravel()[order][None], classes
    )
    np.testing.assert_array_equal(found, shuffled)
    # Other ids for the same classes only move rows and columns.
    ids = np.arange(classes, dtype=np.uint8)
    random.shuffle(ids)  # type: ignore[attr-defined]
    table = np.full(256, VOID, np.uint8)
    table[:classes] = ids
    renamed = confusion_matrix(table[truth], table[prediction], classes)
    np.testing.assert_array_equal(renamed[np.ix_(ids, ids)], found)


def test_a_worked_example() -> None:
    truth = np.array([[0, 0, 1], [1, 2, VOID]], np.uint8)
    prediction = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    found = confusion_matrix(truth, prediction, 4)
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_all_void_counts_nothing() -> None:
    truth = np.full((4, 5), VOID, np.uint8)
    assert confusion_matrix(truth, np.zeros_like(truth), 3).sum() == 0
    assert confusion_matrix(truth[:0], truth[:0], 3).sum() == 0


def test_every_pixel_of_a_large_mask_of_one_class_counts() -> None:
    """17 million and one, which float32 does not hold."""
    truth = np.full((1, 17_000_001), 1, np.uint8)
    assert confusion_matrix(truth, truth, 2).tolist() == [[0, 0], [0, 17_000_001]]


@pytest.mark.parametrize("value", [3, 7, VOID])
@pytest.mark.parametrize("under", [0, VOID], ids=["counted", "void"])
def test_a_predicted_id_that_is_no_class_is_an_error(value: int, under: int) -> None:
    truth = np.full((2, 2), under, np.uint8)
    prediction = np.zeros((2, 2), np.uint8)
    prediction[1, 1] = value
    with pytest.raises(ValueError, match=f"prediction holds id {value}; expected ids below 3"):
        confusion_matrix(truth, prediction, 3)


def test_a_true_id_that_is_no_class_is_an_error() -> None:
    truth = np.array([[0, 3, 254, VOID]], np.uint8)
    with pytest.raises(ValueError, match="truth holds id 3, 254; expected ids below 3 or 255"):
        confusion_matrix(truth, np.zeros_like(truth), 3)


@pytest.mark.parametrize(
    ("truth", "prediction", "classes", "words"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 3, "size of the ground truth"),
        (np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8), 3, "truth is int64"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.float32), 3, "prediction is float32"),
        (np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8), 3, "shape"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), 256, "classes is 256"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), 0, "classes is 0"),
    ],
)
def test_other_shapes_and_types_are_refused(
    truth: Mask, prediction: Mask, classes: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        confusion_matrix(truth, prediction, classes)


def test_views_count_like_copies() -> None:
    random = np.random.default_rng(1)
    truth, prediction = random.integers(0, 5, (2, 40, 60), dtype=np.uint8)
    truth.flags.writeable = False
    for part in (np.s_[::2, 1::3], np.s_[::-1], np.s_[3:20, 5:7]):
        expected = literal(truth[part], prediction[part], 5)
        np.testing.assert_array_equal(confusion_matrix(truth[part], prediction[part], 5), expected)
    expected = literal(truth, prediction, 5)
    np.testing.assert_array_equal(confusion_matrix(truth.T, prediction.T, 5), expected)
    # One laid out by columns, the other by rows.
    by_columns = np.asfortranarray(truth)
    np.testing.assert_array_equal(confusion_matrix(by_columns, prediction, 5), expected)


@pytest.mark.parametrize("classes", [1, 2, 254, 255])
def test_any_number_of_classes(classes: int) -> None:
    random = np.random.default_rng(3)
    truth, prediction = random.integers(0, classes, (2, 30, 30), dtype=np.uint8)
    truth[0], truth[1, 1], prediction[2, 2] = VOID, classes - 1, classes - 1
    expected = literal(truth, prediction, classes)
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, classes), expected)
