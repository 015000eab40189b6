"""Architecture `eomt` in `params.yaml`: its loss, and what it does not go together with."""

from __future__ import annotations

from typing import Any

import pytest

from segops.params.file import parse_params
from segops.runtime.errors import SegopsError

MODEL = {"architecture": "eomt", "encoder": "tu-vit_small_patch14_reg4_dinov2"}
TRAIN = {"loss": "mask_classification"}


def test_it_goes_with_its_own_loss() -> None:
    params = parse_params({"model": MODEL, "train": TRAIN | {"layer_decay": 0.8}})
    assert [part.name for part in params.train.loss] == ["mask_classification"]


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        ({}, {"loss": "cross_entropy+dice"}, r"train.loss is cross_entropy\+dice, and its queries"),
        ({}, {"loss": "mask_classification+dice"}, "by mask_classification alone; set it to that"),
        ({}, {"teacher": "models:/segops@champion"}, "train.teacher gives .* set it to null"),
        ({"auxiliary_weight": 0.4}, {}, "model.auxiliary_weight is above 0, .* set it to 0"),
        ({"dropout": 0.1}, {}, "model.dropout: it has none; set it to null"),
        ({}, {"frozen_views": 2}, "model.architecture is eomt, .* set it to linear or mlp"),
        ({"encoder": "resnet18"}, {}, "eomt does not work with encoder resnet18"),
        ({"output_stride": 8}, {}, "cannot be dilated to output stride 8"),
    ],
)
def test_what_does_not_go_together_is_refused(
    model: dict[str, Any], train: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SegopsError, match=expected):
        parse_params({"model": MODEL | model, "train": TRAIN | train})


def test_its_loss_goes_with_no_other_architecture() -> None:
    with pytest.raises(SegopsError, match=r"mask_classification is the loss of .* set another"):
        parse_params({"train": TRAIN})
