"""`train.mean_teacher` and `train.adversarial`: what is refused when parameters are read."""

from __future__ import annotations

from typing import Any

import pytest

from segops.params.file import parse_params
from segops.runtime.errors import SegopsError

TEACHER = {"mean_teacher": {"weight": 1.0}, "ema_decay": 0.99}
ADVERSARY = {"adversarial": {"weight": 0.01}}
LINEAR = {"architecture": "linear", "encoder": "tu-vit_tiny_patch16_224"}


def tree(train: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"data": {"unlabelled": "more"}, "train": train} | sections


def test_they_are_off_unless_asked_for() -> None:
    assert not parse_params({}).train.learns_unlabelled
    assert parse_params(tree(TEACHER)).train.learns_unlabelled
    assert parse_params(tree(ADVERSARY)).train.learns_unlabelled
    alone = ADVERSARY["adversarial"] | {"unlabelled_weight": 0, "self_taught_weight": 0}
    assert not parse_params(tree({"adversarial": alone})).train.learns_unlabelled
    assert parse_params({"train": ADVERSARY}).data.unlabelled is None  # of Luc et al.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (tree(TEACHER | {"ema_decay": None}), r"moving average of the weights: set ema_decay"),
        ({"train": TEACHER}, r"train\.mean_teacher: data\.unlabelled names no images.*set it"),
        (
            tree(TEACHER | {"frozen_views": 2}, model=LINEAR),
            r"train\.mean_teacher: train\.frozen_views .*set train\.frozen_views to null",
        ),
        (
            tree(ADVERSARY | {"frozen_views": 2}, model=LINEAR),
            r"train\.adversarial: train\.frozen_views .*set train\.frozen_views to null",
        ),
        (
            tree(ADVERSARY, augment={"crop": [64, 31]}),
            r"train\.adversarial: augment\.crop has a side of 31 pixels.* needs 32",
        ),
        (tree({"mean_teacher": {"weight": -1}}), r"train\.mean_teacher\.weight"),
        (tree({"mean_teacher": {"confidence": 1}}), r"train\.mean_teacher\.confidence"),
        (tree({"adversarial": {"lr": 0}}), r"train\.adversarial\.lr"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SegopsError, match=words):
        parse_params(given)
