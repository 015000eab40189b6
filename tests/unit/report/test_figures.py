"""How an evaluation is put into words, with and without an interval."""

from __future__ import annotations

import math

import pytest

from segops.report.figures import level, sentence
from segops.words import counted
from tests.support.evaluations import evaluation_of


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "mIoU 0.612 on 7 images of val (95 % interval 0.581 to 0.650)"),
        (
            {"confidence": 0.975},
            "mIoU 0.612 on 7 images of val (97.5 % interval 0.581 to 0.650)",
        ),
        (
            {"images": 1, "miou_low": None, "miou_high": None},
            "mIoU 0.612 on 1 image of val (no interval: it takes two images or more)",
        ),
        (
            {"images": 2, "miou_low": math.nan, "miou_high": math.nan},
            "mIoU 0.612 on 2 images of val (no interval: none could be drawn)",
        ),
        ({"miou": None}, "no mIoU on 7 images of val"),
    ],
)
def test_the_gist_of_an_evaluation(changed: dict[str, float | None], expected: str) -> None:
    assert sentence(evaluation_of() | changed) == expected


def test_levels_and_numbers_in_words() -> None:
    assert [level(one) for one in (0.95, 0.9, 0.999)] == ["95 %", "90 %", "99.9 %"]
    assert [counted(one, "image") for one in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
