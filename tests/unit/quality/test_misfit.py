"""Masks of other classes than those named are told of first, in place of advice about classes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest

from segops.params.file import Params, parse_params
from segops.quality.expectations import Bounds, check
from segops.quality.facts import scan
from segops.quality.misfit import NAME, misfit, spans
from segops.runtime.masks import read_mask, write_mask
from segops.voc.layout import open_layout

Split = list[list[int]]


def said(train: Split, val: Split, void: float = 0.2, **data: object) -> str | None:
    """What is observed of masks whose files hold these ids, and the advice.

    `void` is the share of 255 in masks that hold 0 beside it and no class; 0.05 in others.
    """
    params: Params = parse_params({"data": data})
    table = params.data.reading.mask_ids.table
    held = [
        (split, sorted({int(one) for one in table[ids]}))
        for split, masks in (("train", train), ("val", val))
        for ids in masks
    ]
    facts = pd.DataFrame(held, columns=["split", "label_ids"])
    facts["mask_path"] = [f"{number}.png" for number in range(len(held))]
    shares = [(void if ids == [0, 255] else 0.05) if 255 in ids else 0.0 for _, ids in held]
    facts["void_fraction"] = shares
    found = misfit(facts, params.data, params.validate_)
    return None if found is None else f"{found.observed} {found.action}"


def test_eleven_classes_are_not_vocs() -> None:
    found = said([[*range(12)], [0, 3, 255]], [[1, 2, 11]])
    assert found is not None
    assert found.startswith("The masks hold ids 0 to 11 and no other: these do not look like VOC's")
    assert "Set data.classes to the names of ids 0 to 11, in this order;" in found


@pytest.mark.parametrize(
    ("required", "is_told"),
    [([], True), (["background", "sofa"], True), (["background", "bird"], False)],
)
def test_vocs_first_classes_are_right_where_they_are_required(
    required: list[str], is_told: bool
) -> None:
    params: Params = parse_params({"validate": {"required_classes": required}})
    facts = pd.DataFrame(
        {"split": ["train", "val"], "label_ids": [[*range(12)], [0, 3]], "void_fraction": 0.0}
    ).assign(mask_path=["0.png", "1.png"])
    assert (misfit(facts, params.data, params.validate_) is not None) == is_told


@pytest.mark.parametrize(
    "data",
    [
        {"classes": [f"c{index}" for index in range(12)]},
        {"classes": [f"c{index}" for index in range(11)], "ignore": [11]},
        {"classes": ["a", {"name": "b", "ids": [*range(1, 12)]}]},
    ],
)
def test_named_they_are_right(data: dict[str, object]) -> None:
    assert said([[*range(12)]], [[0, 1]], **data) is None


def test_a_part_of_vocs_classes_is_no_other_set_of_classes() -> None:
    assert said([[0, 1, 3, 255], [0, 20]], [[0, 15]]) is None
    assert said([[*range(21)]], [[0, 1]]) is None


def test_ids_that_no_class_has_are_listed_as_the_files_hold_them() -> None:
    found = said([[7, 8, 24], [7, 33]], [[7]])
    assert found is not None
    assert found.startswith(
        "2 of 3 masks hold ids of no class: 24, 33; VOC's classes have 0 to 20."
    )
    own = said([[0, 8, 3]], [[0, 8]], classes=["a", {"name": "b", "ids": [7]}])
    assert own is not None
    assert own.startswith("2 of 2 masks hold ids of no class: 3, 8; data.classes has 0, 7.")
    assert "`{name: road, ids: [7, 8]}`" in own
    assert said([[0, 1], [0, 1], [0, 9]], [[1]], classes=["a", "b"]) is None  # one file is wrong


@pytest.mark.parametrize("train", [[[0, 255], [0], [255]], [[0, 255], [0, 1], [0, 1], [0, 255]]])
def test_binary_masks_get_the_command_that_mends_them(train: Split) -> None:
    found = said(train, [[0, 1]], classes=["ok", "crack"])
    assert found is not None
    assert (
        "of train hold 0 and 255 alone: these look like binary masks, but 255 means void" in found
    )
    assert (
        "`segops data import folder data/voc --values 0=ok,255=crack --lists "
        "data/voc/ImageSets/Segmentation`" in found
    )
    of_val = said([[0, 1]], train, classes=["ok", "crack"])
    assert of_val is not None
    assert " of val hold 0 and 255 alone" in of_val


def test_the_command_takes_any_path_and_names() -> None:
    odd = said([[0, 255]], [[0, 1]], classes=["all right", "it's broken"], path="data/my set")
    assert odd is not None
    command = odd.partition("`")[2].partition("`")[0]
    words = shlex.split(command)
    assert words[4:7] == ["data/my set", "--values", "0=all right,255=it's broken"]
    assert words[-1] == "data/my set/ImageSets/Segmentation"
    named = said([[0, 255]], [[0, 1]], classes=["a=b", "c,d"])
    assert named is not None
    assert "--values 0=background,255=foreground " in named


def test_empty_and_void_masks_are_not_binary() -> None:
    assert said([[0], [0, 1]], [[0, 1]], classes=["ok", "crack"]) is None
    assert said([[0, 255], [0, 1], [1, 255]], [[0]], classes=["ok", "crack"]) is None
    negatives, positives = [[0, 255]] * 6, [[0, 1, 255]] * 4
    assert said([*negatives, *positives], [[0, 1]], classes=["background", "crack"]) is None
    assert said(positives, [[0, 255]], 0.05, classes=["background", "crack"]) is None


def test_masks_of_a_split_that_void_covers_are_binary_among_masks_with_void() -> None:
    found = said([[0, 1, 255]] * 4, [[0, 255]] * 2, 0.3, classes=["crack", "background"])
    assert found is not None
    assert "2 of 2 masks of val hold 0 and 255 alone" in found
    assert "--values 0=background,255=crack " in found, "255 is not the background"


def test_it_stands_first_and_no_class_is_missed(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    for image_id in layout.ids("val"):
        mask = read_mask(layout.mask_path(image_id))
        mask[mask > 0] = 255
        write_mask(layout.mask_path(image_id), mask)
    validation = check(scan(layout), Bounds())
    assert [one.name for one in validation.checks if not one.passed] == [NAME]
    assert validation.checks[0].name == NAME


def test_spans() -> None:
    assert spans([3, 1, 2, 7, 9, 10]) == "1 to 3, 7, 9, 10"
    assert spans([]) == ""


@pytest.mark.parametrize(("ids", "told"), [([*range(12)], True), ([0, 1, 2, 4, 5], True),
                                           ([0, 1, 4, 8, 11], False)])  # fmt: skip
def test_a_few_ids_may_not_occur(ids: list[int], told: bool) -> None:
    found = said([ids], [[0, 1]])
    assert (found is not None) is told
    if found is not None:
        assert f"Set data.classes to the names of ids 0 to {max(ids)}, in this order" in found
