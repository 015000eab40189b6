"""The fingerprint moves with everything that moves the weights, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segops.augment.policy import build_policy
from segops.code import stage_code
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.file import Params, parse_params
from segops.runtime.classes import VOC_CLASSES
from segops.train.fingerprint import encoder_file, fingerprint, training_parts
from segops.train.start import Start
from segops.train.teacher import Teacher
from segops.voc.layout import open_layout


@pytest.fixture
def store(tiny_voc: Path, tmp_path: Path) -> PackedStore:
    pack(open_layout(tiny_voc), tmp_path / "packed", VOC_CLASSES)
    return PackedStore(tmp_path / "packed")


def parts(store: PackedStore, tree: dict[str, Any] | None = None, **given: Any) -> dict[str, str]:
    settings: Params = parse_params(tree or {})
    policy = given.pop("policy", build_policy(settings.augment).to_json())
    local = encoder_file(Path("/"), settings.model.encoder_weights)
    place = {"device": "cpu", "precision": "fp32"} | given
    return training_parts(settings, store, policy, local, **place)


def changed(left: dict[str, str], right: dict[str, str]) -> set[str]:
    assert (fingerprint(left) == fingerprint(right)) == (left == right)
    return {name for name in left if left[name] != right[name]}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"train": {"lr": 0.5}}, {"parameters"}),
        ({"train": {"seed": 1}}, {"parameters"}),
        ({"model": {"encoder": "resnet34"}}, {"parameters"}),
        ({"model": {"options": {"decoder_channels": [8]}}}, {"parameters"}),
        ({"augment": {"flip": {"p": 0.1}}}, {"policy"}),
        ({"hardware": {"threads": 1, "workers": 3}}, set()),
        ({"report": {"pictures": False}}, set()),
        ({"evaluate": {"seed": 3}}, set()),
        ({"gate": {"min_miou": 0.9}}, set()),
        ({"tune": {"trials": 3}}, set()),
        ({"train": {"devices": 2}}, {"parameters"}),
        ({"augment": {"copy_paste": {"p": 0.5}}}, {"parameters"}),
        ({"augment": {"copy_paste": {"max_objects": 5}}}, set()),  # and none is pasted
        ({"augment": {"device": "auto"}}, set()),  # what is chosen counts
    ],
)
def test_parameters(tree: dict[str, Any], expected: set[str], store: PackedStore) -> None:
    assert changed(parts(store), parts(store, tree)) == expected


def test_device_and_precision(store: PackedStore) -> None:
    assert changed(parts(store), parts(store, precision="bf16")) == {"precision"}
    assert changed(parts(store), parts(store, device="cuda")) == {"device"}
    assert changed(parts(store), parts(store, ranks=2)) == {"device"}
    assert changed(parts(store), parts(store, executor="gpu")) == {"device"}


def test_the_start_model_counts_by_its_weights(store: PackedStore) -> None:
    tree = {"model": {"start_from": "models:/segops@champion"}}
    start = Start({}, "a" * 64, {}, (0.5,) * 3, (0.5,) * 3, "models:/segops/3")
    first = parts(store, tree, start=start)
    other = {"model": {"start_from": "models:/segops/3"}}
    assert changed(first, parts(store, other, start=replace(start, model="there"))) == set()
    for difference in (
        {"sha256": "b" * 64}, {"mean": (0.4,) * 3}, {"std": (0.4,) * 3}, {"left": "c" * 64}
    ):  # fmt: skip
        moved = parts(store, tree, start=replace(start, **difference))
        assert changed(first, moved) == {"start"}
    assert "start" not in parts(store)


def test_the_teacher_counts_by_its_digest(store: PackedStore) -> None:
    tree = {"train": {"teacher": "models:/segops@champion"}}
    teacher = Teacher({}, "a" * 64, "models:/segops/3", {}, {})
    first = parts(store, tree, teacher=teacher)
    moved = {"train": {"teacher": "models:/segops/3"}}
    renamed = replace(teacher, model="there", training_images={"one": "1" * 64})
    assert changed(first, parts(store, moved, teacher=renamed)) == set()
    assert changed(first, parts(store, tree, teacher=replace(teacher, digest="b" * 64))) == {
        "teacher"
    }
    softer = {"train": {**tree["train"], "distillation": {"temperature": 4.0}}}
    assert changed(first, parts(store, softer, teacher=teacher)) == {"parameters"}
    assert "teacher" not in parts(store)


def test_data(store: PackedStore, tiny_voc: Path, tmp_path: Path) -> None:
    before = parts(store)
    layout = open_layout(tiny_voc)
    one = layout.image_path(layout.ids("train")[0])
    one.write_bytes(one.read_bytes() + b"\0")  # another file, the same picture
    pack(open_layout(tiny_voc), tmp_path / "changed", VOC_CLASSES)
    assert changed(before, parts(PackedStore(tmp_path / "changed"))) == {"data"}


def test_val_changes_no_training(store: PackedStore, tiny_voc: Path, tmp_path: Path) -> None:
    before = parts(store)
    (tiny_voc / "ImageSets/Segmentation/val.txt").write_text(store.ids("val")[0] + "\n")
    pack(open_layout(tiny_voc), tmp_path / "changed", VOC_CLASSES)
    assert changed(before, parts(PackedStore(tmp_path / "changed"))) == set()


def test_an_encoder_file_counts_by_its_content(store: PackedStore, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for path, content in zip(paths, (b"one", b"one", b"two"), strict=True):
        path.write_bytes(content)
    trees = [{"model": {"encoder_weights": str(path)}} for path in paths]
    first, copy, other = (parts(store, tree) for tree in trees)
    assert changed(first, copy) == set()
    assert changed(first, other) == {"parameters"}
    assert changed(first, parts(store)) == {"parameters"}


def test_where_an_encoder_file_lies() -> None:
    assert encoder_file(Path("/root"), None) is None
    assert encoder_file(Path("/root"), "imagenet") is None
    assert encoder_file(Path("/root"), "w/a.safetensors") == Path("/root/w/a.safetensors")
    assert encoder_file(Path("/root"), "/b.safetensors") == Path("/b.safetensors")


def test_the_code_and_the_libraries_are_the_stages(store: PackedStore) -> None:
    found = stage_code("train")
    assert parts(store)["code"] == found.code_hash
    assert parts(store)["libraries"] == found.libraries_hash
