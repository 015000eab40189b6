"""``params.yaml``: typed once, unknown keys refused, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segops import params
from segops.errors import SegopsError
from segops.voc.classes import VOC_CLASSES

ROOT = Path(__file__).parents[2]


def test_shipped_file_spells_every_parameter() -> None:
    shipped = params.flatten(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert set(shipped) == set(params.load(ROOT).flat())


def test_defaults_are_usable() -> None:
    assert params.parse({}).data.class_names == VOC_CLASSES


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"train": {"lr": -1}}, "train.lr: Input should be greater than 0 (found -1)"),
        ({"train": {"learning_rate": 1}}, "train.learning_rate: no such parameter; expected one"),
        ({"trian": {}}, "trian: no such parameter; expected one of data, validate"),
        ({"train": {"optimizer": "lion"}}, "train.optimizer: Input should be 'sgd', 'adam'"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"gate": {"min_miou": 1.5}}, "gate.min_miou"),
        ({"augment": {"scale": {"range": [2.0, 0.5]}}}, "expected the smallest factor first"),
        ({"data": {"classes": ["background"]}}, "expected 2 to 255 names"),
        ({"data": {"classes": ["background", "a", "a"]}}, "expected every name once"),
        ({"gate": {"min_class_iou": {"unicorn": 0.1}}}, "gate.min_class_iou names unicorn"),
        (
            {"validate": {"required_classes": ["unicorn"]}},
            "validate.required_classes names unicorn",
        ),
        (
            {"train": {"selection_share": 0, "early_stopping_patience": 3}},
            "early_stopping_patience needs a selection split",
        ),
        ({"train": {"selection_share": 0, "schedule": "plateau"}}, "plateau schedule needs"),
        ({"train": {"epochs": 1, "warmup_epochs": 1}}, "leaves none of 1 epochs"),
        ({"train": {"lr": 0.1, "min_lr": 0.2}}, "min_lr 0.2 is above lr 0.1"),
    ],
)
def test_bad_value_is_named(tree: dict[str, object], expected: str) -> None:
    with pytest.raises(SegopsError) as caught:
        params.parse(tree)
    assert expected in str(caught.value)


def test_all_bad_values_are_listed() -> None:
    with pytest.raises(SegopsError) as caught:
        params.parse({"train": {"lr": 0, "epochs": 0}, "nothing": 1})
    for key in ("train.lr", "train.epochs", "nothing"):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("train: [", "not readable as YAML"), ("- 1\n", "expected a mapping"), (None, "no such file")],
)
def test_unusable_file_is_named(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SegopsError, match=expected) as caught:
        params.load(path)
    assert str(path) in str(caught.value)
