"""What the evaluation page says in words and rows, and the small drawings in them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segops.metrics.catalogue import compute_metrics, number_at
from segops.metrics.iou import Difference
from segops.metrics.split_figures import SplitFigures, judge_image
from segops.params.file import parse_params
from segops.report.class_table import class_table
from segops.report.evaluation_page import most_confused
from segops.report.html import signed
from segops.report.model_facts import lineages, network_words, predict_words
from segops.report.reliability import reliability
from segops.report.sections import confusions, error_kinds, interval, slices, tiles, verdicts
from segops.report.svg import limit, outcome, whisker, words
from tests.support.evaluations import (
    NAMES,
    confusion_of,
    evaluation_of,
    old_evaluation,
    opponent_of,
)

NARROW = "\u202f"
MINUS = "\u2212"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.05, "better"), (-0.05, -0.01, "worse"), (-0.01, 0.05, "even"), (0.0, 0.05, "even"),
     (math.nan, math.nan, "even"), (math.nan, 0.05, "even")],
)  # fmt: skip
def test_only_an_interval_without_zero_decides(low: float, high: float, expected: str) -> None:
    assert outcome(Difference(0.02, low, high)) == expected


def test_a_difference_in_words() -> None:
    text = words(Difference(0.021, -0.004, 0.047), 0.95)
    assert text == f"+0.021, 95{NARROW}% interval {MINUS}0.004 to +0.047"
    assert words(Difference(-0.2, math.nan, math.nan), 0.95) == f"{MINUS}0.200, no interval"
    assert (signed(0.0001), signed(-0.0001), signed(None)) == ("0.000", "0.000", "–")


def test_verdicts_say_better_worse_or_not_told_apart() -> None:
    even = opponent_of()
    better = replace(even, miou=Difference(0.05, 0.01, 0.09), excluded=0)
    worse = replace(even, miou=Difference(-0.05, -0.09, -0.01), images=1)
    few = replace(even, miou=Difference(0.05, math.nan, math.nan))
    nothing = replace(even, miou=Difference(math.nan, math.nan, math.nan))
    said = verdicts(evaluation_of(), [even, better, worse, few, nothing])
    assert [one["sentence"] for one in said] == [
        "not told apart on 6 images",
        "better on 6 images",
        "worse on 1 image",
        "too few to tell apart, 6 images",
        "too few to tell apart, 6 images",
    ]
    assert said[0]["remark"] == (
        "Left out of the difference: 1 image that one of the two was trained on. "
        "Each model's own mIoU is over all 7."
    )
    (fewer,) = verdicts(evaluation_of() | {"images": 6}, [even])
    assert fewer["remark"].startswith("Left out throughout: 1 image of the split")
    assert said[1]["remark"] == ""
    assert said[4]["figures"] == "no difference"
    assert "nan" not in str(said)


def test_whiskers_span_zero_and_stay_inside() -> None:
    drawing = whisker(Difference(0.1, -0.3, 0.9), 0.5, "<title>")
    places = [float(value) for value in re.findall(r'(?:x[12]|cx)="([\d.]+)"', drawing)]
    assert min(places) >= 6
    assert max(places) == 114
    assert "&lt;title&gt;" in drawing
    assert 'class="whisker even"' in drawing
    assert "nan" not in whisker(Difference(0.1, math.nan, math.nan), 0.5, "t")


def test_one_scale_holds_all_differences() -> None:
    assert limit([Difference(0.01, -0.12, 0.03), Difference(0.04, math.nan, math.nan)]) == 0.15
    assert limit([Difference(math.nan, math.nan, math.nan)]) == 0.01
    assert limit([Difference(1.0, 0.9, 1.0)]) == 1.0


def test_figures_of_any_evaluation() -> None:
    tree = {"a": {"b": 0.5}, "c": None, "d": "x", "e": math.nan, "f": True, "g": 3}
    assert number_at(tree, "a.b") == 0.5
    assert number_at(tree, "g") == 3
    assert [number_at(tree, path) for path in ("a", "a.c", "a.b.c", "c", "d", "e", "f")] == [
        None
    ] * 7


def test_the_class_table_has_two_columns_an_opponent() -> None:
    table = class_table(evaluation_of(), [opponent_of(), opponent_of("other", old=True)])
    keys = [column["key"] for column in table["columns"]]
    assert keys[:6] == ["class", "iou", "iou1", "difference1", "iou2", "difference2"]
    assert [row["name"] for row in table["rows"]] == list(NAMES)
    assert [row["absent"] for row in table["rows"]] == [False, False, True, True]
    assert all(len(row["cells"]) + 1 == len(keys) for row in table["rows"])
    cat = table["rows"][1]["cells"]
    assert [cell["text"] for cell in cat[:3]] == ["0.172", "0.172", "+0.110"]
    assert cat[2]["outcome"] == "better"
    assert table["rows"][0]["cells"][2]["outcome"] == "even"
    assert table["rows"][3]["cells"][2] | {} == {
        "kind": "difference", "value": None, "text": "–", "outcome": "even", "drawing": "",
    }  # fmt: skip
    assert [cell["text"] for cell in table["means"][:3]] == ["0.612", "0.562", "+0.050"]
    assert len(table["means"]) + 1 == len(keys)


def test_a_class_that_is_only_predicted_comes_last() -> None:
    evaluation = evaluation_of()
    evaluation["classes"]["cat"]["truth_pixels"] = 0
    rows = class_table(evaluation)["rows"]
    assert [row["name"] for row in rows] == ["ground", "cat", "cow", "dog"]
    assert [row["absent"] for row in rows] == [False, True, True, True]


def test_tiles_show_what_each_model_knows() -> None:
    shown = tiles(evaluation_of(), [opponent_of("old", old=True), opponent_of("new")])
    assert len(shown) == 10
    assert shown[0]["others"] == [("new", "0.515")]
    assert [name for name, _ in shown[5]["others"]] == ["old", "new"]
    assert {tile["value"] for tile in tiles(old_evaluation(), [])[:5]} == {"–"}


def test_the_interval_shows_the_other_models() -> None:
    shown = interval(evaluation_of(), [opponent_of()])
    assert shown is not None
    assert shown["others"] == [{"name": "champion, version 3", "place": 56.23}]
    assert interval(evaluation_of() | {"miou_low": None}, []) is None


def test_kinds_of_error_share_out_all_that_is_wrong() -> None:
    shown = error_kinds(evaluation_of(), [opponent_of(), opponent_of(old=True)])
    assert shown is not None
    assert shown["pixels"] == 250
    assert [row["of_errors"] for row in shown["rows"]] == [0.6, 0.16, 0, 0.24]
    assert shown["rows"][0]["others"] == [150 / 1235567, None]
    assert error_kinds(old_evaluation(), []) is None
    other = replace(opponent_of(), evaluation=evaluation_of() | {"background": None})
    shown = error_kinds(evaluation_of(), [other])
    assert shown is not None
    assert shown["rows"][0]["others"] == [None]  # its kinds are of another background
    none = error_kinds(evaluation_of() | {"errors": {}}, [])
    assert none is not None
    assert none["rows"][0]["of_errors"] is None


def test_confusions_are_sorted_and_empty_ones_left_out() -> None:
    pairs = [("a", "b", 5), ("b", "a", 20), ("a", "c", 0)]
    counted = [{"truth": t, "predicted": p, "pixels": n} for t, p, n in pairs]
    found = confusions({"confusions": counted, "classes": dict.fromkeys("abc")})
    assert [(one["truth"], one["length"]) for one in found] == [("b", 1), ("a", 0.25)]
    assert [one["key"] for one in found] == ["cell-1-0", "cell-0-1"]
    assert confusions({"classes": {}}) == []


def test_slices_stand_beside_the_same_slice_of_the_other() -> None:
    theirs = evaluation_of()
    theirs["slices"] = [theirs["slices"][0] | {"recall": 0.25}]
    rows = slices(evaluation_of(), [replace(opponent_of(), evaluation=theirs)])
    assert [(row["first"], row["name"], row["others"]) for row in rows] == [
        (True, "small", [0.25]),
        (True, "crowded", [None]),
    ]


def test_a_slice_has_its_place_in_the_evaluation_as_its_key() -> None:
    one, other = evaluation_of()["slices"][:2]
    rows = slices({"slices": [one, one, other]}, [])
    assert [(row["name"], row["key"]) for row in rows] == [
        ("small", "slice-0"), ("small", "slice-1"), ("crowded", "slice-2"),
    ]  # fmt: skip


def test_slices_of_another_background_are_not_set_beside_these() -> None:
    other = replace(opponent_of(), evaluation=evaluation_of() | {"background": None})
    shown = slices(evaluation_of(), [opponent_of(), other])
    assert any(row["others"][0] is not None for row in shown)
    assert {row["others"][1] for row in shown} == {None}


def test_calibration_is_drawn_and_judged() -> None:
    shown = reliability(evaluation_of(), [opponent_of(), opponent_of("old", old=True)])
    assert shown is not None
    assert "overconfident: mean confidence 0.800, accuracy 0.700" in shown["sentence"]
    assert [value for _, value in shown["others"]] == [0.0771, None]
    assert shown["chart"].count('class="gap over"') == 1
    assert "nan" not in shown["chart"]
    assert [round(one["gap"], 6) for one in shown["bins"] if one["pixels"]] == [-0.1]
    assert reliability(old_evaluation(), []) is None
    assert reliability(evaluation_of() | {"calibration": None}, []) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "whole"}, "each image whole"),
        ({"mode": "whole", "flip": True, "scales": [1]}, "averaged with the mirrored image"),
        ({"mode": "whole", "scales": [0.5, 1.0]}, "averaged over the scales 0.5, 1"),
        ({"mode": "whole", "crf": {"iterations": 1}}, "refined by 1 iteration of a dense CRF"),
        ({"mode": "window", "window": [300, 400], "overlap": 0.25},
         f"each image by windows of 400 × 300 pixels that overlap by 25{NARROW}%"),
        (None, "not recorded by this evaluation"),
    ],
)  # fmt: skip
def test_the_way_of_predicting_in_words(settings: dict[str, Any] | None, expected: str) -> None:
    assert expected in predict_words(settings)


def test_the_settings_of_params_have_words() -> None:
    predict = parse_params({}).predict.model_dump(mode="json")
    assert predict_words(predict) == (
        f"each image whole up to 4{NARROW}000{NARROW}000 pixels, above by windows of 512 × 512 "
        f"pixels that overlap by 50{NARROW}%"
    )


def test_lineage_of_every_model() -> None:
    one, two = lineages("this model", "fcn8s", evaluation_of(), [opponent_of(old=True)])
    assert dict(one["rows"])["weights"] == "a" * 64
    assert (one["network"], two["network"]) == ("fcn8s", "")
    assert two["predict"] == "not recorded by this evaluation"


@pytest.mark.parametrize(
    ("architecture", "images", "expected"),
    [
        ("pspnet", 180, "pspnet with encoder resnet18, made from 180 images of train"),
        ("plain_cnn", 1, "plain_cnn, made from 1 image of train"),
    ],
)
def test_the_network_in_words(architecture: str, images: int, expected: str) -> None:
    described = {
        "spec": {"architecture": architecture, "encoder": "resnet18"},
        "training_images": {str(number): "sha" for number in range(images)},
    }
    assert network_words(described) == expected
    described["spec"] |= {"pruned_shapes": {"score.weight": [None, 90, None, None]}}
    assert network_words(described) == expected.replace(", made", ", pruned, made")


def test_the_most_confused_classes_in_id_order() -> None:
    assert most_confused(confusion_of(), 2).tolist() == [0, 1]
    assert most_confused(confusion_of(), 9).tolist() == [0, 1, 3]


def test_every_table_takes_what_is_really_counted() -> None:
    """The figures of segops.metrics, unchanged, fill each of the page's tables."""
    random = np.random.default_rng(0)
    figures = SplitFigures(NAMES)
    for _ in range(3):
        truth = np.kron(random.integers(0, 4, (4, 5)), np.ones((9, 9))).astype(np.uint8)
        prediction = np.roll(truth, random.integers(0, 9, 2), axis=(0, 1))
        top = random.uniform(0.25, 1, truth.shape).astype(np.float32)
        figures.add(judge_image(truth, prediction, 4, top))
    evaluation = old_evaluation() | compute_metrics(figures.counts, NAMES) | figures.summary()
    errors = error_kinds(evaluation, [])
    assert errors is not None
    wrong = int(figures.confusion.sum() - figures.confusion.trace())
    assert errors["pixels"] == sum(row["pixels"] for row in errors["rows"]) == wrong
    assert sum(one["pixels"] for one in confusions(evaluation)) == wrong
    assert len(slices(evaluation, [])) == 7
    shown = reliability(evaluation, [])
    assert shown is not None
    assert sum(one["pixels"] for one in shown["bins"]) == figures.confusion.sum()
    assert "–" not in {tile["value"] for tile in tiles(evaluation, [])}
    assert "–" not in {cell["text"] for row in class_table(evaluation)["rows"]
                       for cell in row["cells"][1:4]}  # fmt: skip
