"""Changes of params.yaml: only what was asked for, checked before anything is written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from segops.edit import overlay_values, plan
from segops.params.file import load_params
from segops.runtime.errors import SegopsError

SHIPPED = Path(__file__).parents[2] / "params.yaml"
ODD = """\
# Spelled in ways that a round trip would tidy up.
train:   {lr:  1.0e-3 ,   "epochs": 12}   # the loop

augment:
    crop: [ 64,64 ]       # four spaces deep
    scale:
        range: [0.5,  2]
        p: 1


validate:
    required_classes:
      - background     # indented list
      - bird
    max_void_fraction: .9
# the end
"""


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes(SHIPPED.read_bytes())
    return path


def odd(tmp_path: Path, text: str = ODD) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    return path


def test_only_the_asked_lines_of_the_shipped_file_change(shipped: Path) -> None:
    edit = plan(shipped, {"train.lr": 0.25, "model.encoder": "resnet50", "augment.scale.p": 0.5})
    before, after = edit.before.splitlines(), edit.after.splitlines()
    assert len(before) == len(after)
    touched = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [line.split()[0] for line in touched] == ["scale:", "encoder:", "lr:"]
    assert touched[0] == "  scale: {range: [0.75, 1.5], p: 0.5}"
    assert [(one.key, one.old, one.new) for one in edit.changes] == [
        ("augment.scale.p", 1.0, 0.5),
        ("model.encoder", "resnet18", "resnet50"),
        ("train.lr", load_params(shipped).train.lr, 0.25),
    ]
    assert shipped.read_text() == edit.before
    edit.write()
    assert load_params(shipped) == edit.settings
    assert load_params(shipped).train.lr == 0.25


def test_a_parameter_of_the_shipped_file_is_set_alone(shipped: Path) -> None:
    """Comments stay, and so do all lines but one."""
    draw = random.Random(0)
    flat = load_params(shipped).flat()
    numbers = [
        (key, value)
        for key, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    for key, value in draw.sample(numbers, 20):
        other = type(value)(value + draw.choice([1, 2]) if isinstance(value, int) else value / 2)
        try:
            edit = plan(shipped, {key: other})
        except SegopsError:
            continue  # not a legal value
        lines = zip(edit.before.splitlines(), edit.after.splitlines(), strict=True)
        assert sum(old != new for old, new in lines) == (other != value), key
        for comment in (line.split(" #")[1] for line in edit.before.splitlines() if " #" in line):
            assert comment in edit.after


def test_the_spelling_of_other_lines_is_kept(tmp_path: Path) -> None:
    edit = plan(odd(tmp_path), {"augment.scale.p": 0.5})
    assert edit.after == ODD.replace("        p: 1\n", "        p: 0.5\n")
    assert edit.diff().splitlines()[2:] == ["@@ -8 +8 @@", "-        p: 1", "+        p: 0.5"]


def test_windows_line_ends_are_kept(tmp_path: Path) -> None:
    path = odd(tmp_path, ODD.replace("\n", "\r\n"))
    plan(path, {"augment.scale.p": 0.5}).write()
    expected = ODD.replace("        p: 1\n", "        p: 0.5\n").replace("\n", "\r\n")
    assert path.read_bytes() == expected.encode()


def test_a_mapping_is_replaced_whole(tmp_path: Path) -> None:
    edit = plan(odd(tmp_path), {"augment.scale": {"range": [0.25, 4.0]}})
    assert yaml.safe_load(edit.after)["augment"]["scale"] == {"range": [0.25, 4.0]}
    assert edit.settings.augment.scale.p == 1.0  # the default
    assert "        range: [0.25, 4.0]\n" in edit.after
    assert edit.after.endswith("# the end\n")


def test_keys_and_sections_that_the_file_does_not_name_are_added(tmp_path: Path) -> None:
    values = {"train.momentum": 0.5, "model.options": {"a": [1, 2]}, "gate.min_miou": 0.25}
    edit = plan(odd(tmp_path), values)
    tree = yaml.safe_load(edit.after)
    assert tree["train"] == {"lr": 0.001, "epochs": 12, "momentum": 0.5}
    assert tree["model"] == {"options": {"a": [1, 2]}}
    assert tree["gate"] == {"min_miou": 0.25}
    for line in ODD.splitlines()[3:]:
        assert line in edit.after.splitlines()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n# nothing\n"])
def test_an_empty_file_is_filled(tmp_path: Path, text: str) -> None:
    path = odd(tmp_path, text)
    plan(path, {"train.lr": 0.5}).write()
    assert load_params(path).train.lr == 0.5
    assert path.read_text().startswith(text.split("\n")[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.weight_decay", 1e-05),
        ("train.loss", "cross_entropy+dice"),
        ("train.loss", [{"name": "ohem", "weight": 0.5, "min_kept": 10}, {"name": "dice"}]),
        ("train.gradient_clip", 3.0),
        ("train.deterministic", False),
        ("train.iterations", 20000),
        ("model.encoder_weights", "imagenet"),
        ("model.options", {"a": None, "on": "no", "1e5": "1e5"}),
        ("tune.ranges", {"train.lr": {"low": 1e-06, "high": 0.5, "log": True}}),
        ("tune.ranges.train.lr", {"low": 1e-06, "high": 0.5, "log": True}),
    ],
)
def test_values_are_read_back_as_they_were_given(shipped: Path, key: str, value: Any) -> None:
    plan(shipped, {key: value}).write()
    tree = yaml.safe_load(shipped.read_text())
    found = tree[key.split(".")[0]][key.split(".")[1]]
    assert (found["train.lr"] if key == "tune.ranges.train.lr" else found) == value


def test_equal_values_change_nothing(shipped: Path) -> None:
    text = shipped.read_bytes()
    settings = load_params(shipped)
    edit = plan(shipped, {"train.lr": settings.train.lr, "augment.crop": settings.augment.crop})
    edit.write()
    assert (edit.changes, edit.diff(), shipped.read_bytes()) == ((), "", text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.lr": -1}, r"train\.lr: .*above 0"),
        ({"train.learning_rate": 1.0}, r"train\.learning_rate: no such parameter"),
        ({"training.lr": 1.0}, r"training: no such parameter"),
        ({"augment.scale": {"q": 1}}, r"augment\.scale\.q: no such parameter"),
        ({"train.schedule": "plateau", "train.selection_share": 0}, "plateau schedule needs"),
    ],
)
def test_a_bad_value_names_key_and_source_and_writes_nothing(
    shipped: Path, values: dict[str, Any], message: str
) -> None:
    text = shipped.read_bytes()
    with pytest.raises(SegopsError, match=message) as error:
        plan(shipped, values, "recipes/mine.yaml")
    assert str(error.value).startswith("recipes/mine.yaml, put over ")
    assert shipped.read_bytes() == text


def test_a_file_changed_in_between_is_not_overwritten(shipped: Path) -> None:
    edit = plan(shipped, {"train.lr": 0.5})
    theirs = shipped.read_text() + "# mine\n"
    shipped.write_text(theirs)
    with pytest.raises(SegopsError, match=r"params\.yaml: changed while"):
        edit.write()
    assert shipped.read_text() == theirs


def test_a_shared_value_is_refused(tmp_path: Path) -> None:
    path = odd(tmp_path, "augment:\n  scale: &s {p: 0.5}\n  flip: {<<: *s}\n")
    with pytest.raises(SegopsError, match="anchor or a merge key"):
        plan(path, {"augment.scale.p": 0.25})
    assert "0.25" not in path.read_text()


def test_overlays_go_into_sections_and_keep_open_mappings_whole() -> None:
    overlay = {
        "augment": {"scale": {"p": 0.5}, "crop": [1, 1]},
        "model": {"options": {"a": {"b": 1}}},
        "train": {},
    }
    assert overlay_values(overlay) == {
        "augment.scale.p": 0.5,
        "augment.crop": [1, 1],
        "model.options": {"a": {"b": 1}},
        "train": {},
    }
