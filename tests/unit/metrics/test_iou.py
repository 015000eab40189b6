"""IoU and its kin against torchmetrics, scikit-learn and their literal definitions."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from segops.metrics.catalogue import compute_metrics
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import (
    ClassPixels,
    class_pixels,
    f1,
    frequency_weighted_iou,
    iou,
    miou,
    miou_truth_or_prediction,
    pixel_accuracy,
    precision,
    recall,
    truth_mean,
)
from segops.runtime.classes import VOID

Mask = NDArray[np.uint8]
Split = tuple[list[Mask], list[Mask], int]


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """A few images with void pixels and with classes that are absent here or there."""
    classes = draw(st.integers(2, 8))
    present = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=4))
    truths, predictions = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8))
        truths.append(draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([*present, VOID]))))
        predictions.append(draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1))))
    return truths, predictions, classes


def accumulate(split: Split) -> ClassPixels:
    truths, predictions, classes = split
    pairs = zip(truths, predictions, strict=True)
    total = sum(confusion_matrix(truth, prediction, classes) for truth, prediction in pairs)
    return class_pixels(np.asarray(total))


def summary(pixels: ClassPixels, names: list[str]) -> dict[str, Any]:
    return compute_metrics(SplitCounts(pixels), names)


def flat(split: Split) -> tuple[Mask, Mask]:
    truth = np.concatenate([one.ravel() for one in split[0]])
    prediction = np.concatenate([one.ravel() for one in split[1]])
    return truth[truth != VOID], prediction[truth != VOID]


def literal(split: Split) -> dict[str, float]:
    """The definitions spelt out class by class on the pixels themselves, in float64."""
    truth, prediction = flat(split)
    values: dict[int, dict[str, float]] = {}
    for one in range(split[2]):
        both = int(((truth == one) & (prediction == one)).sum())
        either = int(((truth == one) | (prediction == one)).sum())
        true, predicted = int((truth == one).sum()), int((prediction == one).sum())
        if either:
            values[one] = {
                "iou": both / either,
                "recall": both / true if true else 0.0,
                "precision": both / predicted if predicted else 0.0,
                "f1": 2 * both / (true + predicted),
                "share": true / truth.size,
            }
    true_classes = [one for one in values if (truth == one).any()]

    def mean(name: str) -> float:
        return sum(values[one][name] for one in true_classes) / len(true_classes)

    return {
        "miou": mean("iou"),
        "miou_truth_or_prediction": sum(v["iou"] for v in values.values()) / len(values),
        "pixel_accuracy": int((truth == prediction).sum()) / truth.size,
        "mean_class_accuracy": mean("recall"),
        "frequency_weighted_iou": sum(v["share"] * v["iou"] for v in values.values()),
        "mean_precision": mean("precision"),
        "mean_recall": mean("recall"),
        "mean_f1": mean("f1"),
    }


@given(splits())
@settings(max_examples=150, deadline=None)
def test_every_figure_equals_its_literal_definition(split: Split) -> None:
    assume(flat(split)[0].size > 0)
    found = summary(accumulate(split), [f"class {one}" for one in range(split[2])])
    for name, value in literal(split).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@given(splits())
@settings(max_examples=80, deadline=None)
def test_equals_scikit_learn(split: Split) -> None:
    truth, prediction = flat(split)
    assume(truth.size > 0)
    pixels = accumulate(split)
    labels = list(range(split[2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ious = jaccard_score(truth, prediction, labels=labels, average=None, zero_division=0)
        precisions, recalls, f1s, support = precision_recall_fscore_support(
            truth, prediction, labels=labels, zero_division=0
        )
    occurs = ~np.isnan(iou(*pixels))
    for ours, theirs in (
        (iou(*pixels), ious),
        (precision(pixels), precisions),
        (recall(pixels), recalls),
        (f1(pixels), f1s),
    ):
        np.testing.assert_allclose(ours[occurs], theirs[occurs], atol=1e-12)
        assert np.isnan(ours[~occurs]).all()
    assert miou(*pixels) == pytest.approx(ious[support > 0].mean(), abs=1e-12)
    assert pixel_accuracy(pixels) == pytest.approx(accuracy_score(truth, prediction), abs=1e-12)


@given(splits())
@settings(max_examples=60, deadline=None)
def test_equals_torchmetrics(split: Split) -> None:
    assume(flat(split)[0].size > 0)
    pixels = accumulate(split)
    common = {"num_classes": split[2], "ignore_index": VOID}
    theirs = MulticlassJaccardIndex(average="none", **common)
    either = MulticlassJaccardIndex(average="macro", **common)
    accuracy = MulticlassAccuracy(average="micro", **common)
    for truth, prediction in zip(split[0], split[1], strict=True):
        tensors = torch.from_numpy(prediction)[None].long(), torch.from_numpy(truth)[None].long()
        for metric in (theirs, either, accuracy):
            metric.update(*tensors)
    ours = iou(*pixels)
    np.testing.assert_allclose(np.nan_to_num(ours), theirs.compute().numpy(), atol=1e-6)
    # torchmetrics' macro mean goes over the classes in truth or prediction.
    expected = float(either.compute())
    assert miou_truth_or_prediction(pixels) == pytest.approx(expected, abs=1e-6)
    assert pixel_accuracy(pixels) == pytest.approx(float(accuracy.compute()), abs=1e-6)


@given(splits(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_void_and_names_change_nothing(split: Split, random: object) -> None:
    truths, predictions, classes = split
    names = [f"class {one}" for one in range(classes)]
    found = summary(accumulate(split), names)
    pairs = list(zip(truths, predictions, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    pairs.append((np.full((2, 3), VOID, np.uint8), np.zeros((2, 3), np.uint8)))
    again = ([one for one, _ in pairs], [one for _, one in pairs], classes)
    assert summary(accumulate(again), names) == found
    ids = np.arange(classes, dtype=np.uint8)
    random.shuffle(ids)  # type: ignore[attr-defined]
    table = np.full(256, VOID, np.uint8)
    table[:classes] = ids
    renamed = ([table[one] for one in truths], [table[one] for one in predictions], classes)
    moved = [""] * classes
    for old, new in enumerate(ids):
        moved[new] = names[old]
    other = summary(accumulate(renamed), moved)
    assert other.pop("classes") == found.pop("classes")
    assert other == pytest.approx(found, abs=1e-12, nan_ok=True)


def test_a_stray_class_hurts_the_class_it_covers_and_is_no_class_of_its_own() -> None:
    # 10 pixels of class 0; 2 of them are predicted as class 2, which the truth does not hold.
    pixels = class_pixels(np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]], np.int64))
    assert miou(*pixels) == 0.8
    assert miou_truth_or_prediction(pixels) == 0.4
    ious = iou(*pixels)
    assert ious[0] == 0.8
    assert np.isnan(ious[1])
    assert ious[2] == 0.0


def test_a_true_class_that_is_never_predicted_counts_as_zero() -> None:
    pixels = class_pixels(np.array([[6, 0], [2, 0]], np.int64))
    assert miou(*pixels) == pytest.approx((6 / 8 + 0) / 2)
    assert precision(pixels).tolist() == [0.75, 0.0]
    assert truth_mean(recall(pixels), pixels) == 0.5
    assert frequency_weighted_iou(pixels) == pytest.approx(6 / 8 * 6 / 8)


def test_without_pixels_there_is_no_figure_and_json_says_null() -> None:
    pixels = class_pixels(np.zeros((2, 2), np.int64))
    assert math.isnan(miou(*pixels))
    for figure in (miou_truth_or_prediction, pixel_accuracy, frequency_weighted_iou):
        assert math.isnan(figure(pixels))
    found = json.loads(json.dumps(summary(pixels, ["a", "b"]), allow_nan=False))
    assert found["miou"] is None
    assert found["classes"]["a"]["iou"] is None
    assert found["classes"]["a"]["truth_pixels"] == 0


def test_mean_over_images_is_not_miou() -> None:
    images = np.array([[[1, 0], [0, 0]], [[1, 8], [0, 1]]])
    each = [miou(*class_pixels(one)) for one in images]
    assert miou(*class_pixels(images.sum(axis=0))) != pytest.approx(np.mean(each))


@given(st.lists(splits(), min_size=2, max_size=4), st.integers(9, 40))
@settings(max_examples=60, deadline=None)
def test_many_splits_at_once_are_as_one_by_one(many: list[Split], classes: int) -> None:
    each = [accumulate((*one[:2], classes)) for one in many]
    stacked = miou(*(np.stack(one)[:, None].astype(np.float64) for one in zip(*each, strict=True)))
    assert stacked.shape == (len(many), 1)
    alone = [miou(*one) for one in each]
    np.testing.assert_allclose(stacked[:, 0], alone, rtol=1e-15)


def test_classes_that_occur_nowhere_do_not_change_a_bit() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        confusion = random.integers(0, 1000, (40, 40))
        confusion[random.random(40) < 0.4] = 0  # no true pixels of these classes
        pixels = class_pixels(confusion)
        occurs = pixels.truth > 0
        assert miou(*pixels) == iou(*pixels)[occurs].mean()


def test_summary_wants_one_name_a_class() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\); expected 3 classes"):
        summary(class_pixels(np.zeros((2, 2), np.int64)), ["a", "b", "c"])
