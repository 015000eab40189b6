"""The confusion matrix of tensors against that of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segops.metrics.confusion import confusion_matrix
from segops.metrics.device_confusion import DeviceConfusion, count_rows
from segops.runtime.classes import VOID
from tests.support.metric_cases import Mask, patches

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@given(pairs=st.lists(patches(classes=7), max_size=4))
@settings(max_examples=30, deadline=None)
def test_equals_the_count_of_arrays(device: str, pairs: list[tuple[Mask, Mask]]) -> None:
    counter = DeviceConfusion(7)
    for truth, prediction in pairs:
        counter.add(torch.from_numpy(truth).to(device), torch.from_numpy(prediction).to(device))
    found = counter.fetch()
    assert found.dtype == np.int64
    assert found.shape == (len(pairs), 7, 7)
    for one, pair in zip(found, pairs, strict=True):
        np.testing.assert_array_equal(one, confusion_matrix(*pair, 7))
    assert counter.fetch().shape == (0, 7, 7)


@pytest.mark.parametrize("classes", [1, 21, 254, 255])
def test_a_batch_counts_like_its_images(classes: int) -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, classes, (2, 3, 20, 30), dtype=np.uint8)
    truth[:, :5] = VOID
    truth[:, 6, 0] = prediction[:, 7, 1] = classes - 1
    counter = DeviceConfusion(classes)
    counter.add(torch.from_numpy(truth), torch.from_numpy(prediction))
    expected = [confusion_matrix(*pair, classes) for pair in zip(truth, prediction, strict=True)]
    np.testing.assert_array_equal(counter.fetch(), np.stack(expected))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_tables_in_turn_count_like_one(rows: int, cells: int, tables: int, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, cells, (rows, 50)))
    expected = np.stack([np.bincount(row, minlength=cells) for row in values.numpy()])
    for one in (1, tables):
        np.testing.assert_array_equal(count_rows(values.clone(), cells, one).numpy(), expected)


@pytest.mark.parametrize(
    ("truth", "prediction", "words"),
    [
        (0, 3, "prediction holds"),
        (0, VOID, "prediction holds"),
        (VOID, 3, "prediction holds"),
        (3, 0, "truth holds"),
        (254, 0, "truth holds"),
    ],
)
def test_an_id_that_is_no_class_is_an_error_when_counts_are_fetched(
    truth: int, prediction: int, words: str
) -> None:
    counter = DeviceConfusion(3)
    one = torch.zeros((2, 2), dtype=torch.uint8)
    counter.add(one + truth, one + prediction)
    with pytest.raises(ValueError, match=words):
        counter.fetch()
    counter.add(one, one)
    assert counter.fetch().sum() == 4


def test_other_shapes_and_types_are_refused() -> None:
    counter, one = DeviceConfusion(3), torch.zeros((2, 3), dtype=torch.uint8)
    for truth, prediction, words in (
        (one, one.T, "expected the same"),
        (one.long(), one, "truth is torch.int64"),
        (one, one[0], "prediction is torch.uint8 of shape"),
    ):
        with pytest.raises(ValueError, match=words):
            counter.add(truth, prediction)
    for classes in (0, 256):
        with pytest.raises(ValueError, match=f"classes is {classes}"):
            DeviceConfusion(classes)
