"""What the fingerprint of a pretraining depends on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from segops import paths
from segops.augment.policy import build_policy
from segops.code import module_code
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.file import Params
from segops.pretrain import run
from segops.pretrain.images import of_train
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.train.pretraining import PretrainJob
from segops.voc.layout import open_layout


@pytest.fixture
def store(tiny_voc: Path, tmp_path: Path) -> PackedStore:
    pack(open_layout(tiny_voc), tmp_path / "packed", VOC_CLASSES)
    return PackedStore(tmp_path / "packed")


def job(root: Path, store: PackedStore) -> PretrainJob:
    settings = Params.model_validate({"data": {"classes": "voc"}, "train": {"device": "cpu"}})
    return run.build_job(root, settings, of_train(store), store)


def test_the_policy_and_the_code_of_the_crops_enter(
    store: PackedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = job(tmp_path, store)
    assert type(before.dataset).__module__ in module_code(run.LOOP).modules
    assert job(tmp_path, store).parts == before.parts

    def other(params: Any, fill: Any) -> Any:
        return build_policy(params.model_copy(update={"crop": (64, 64)}), fill)

    monkeypatch.setattr(run, "build_policy", other)
    after = job(tmp_path, store).parts
    assert {name for name in after if after[name] != before.parts[name]} == {"policy"}


def test_a_store_of_other_files_than_the_data_set_holds_is_refused(
    store: PackedStore, tiny_voc: Path, tmp_path: Path
) -> None:
    """Images of today's val would be among those of a directory, and train would be another."""
    shutil.move(store.path, tmp_path / paths.PACKED)
    shutil.copytree(tiny_voc, tmp_path / "data/voc")
    (tmp_path / "params.yaml").write_text("train: {device: cpu}\npretrain: {images: photos}\n")
    layout = open_layout(tmp_path / "data/voc")
    layout.write_list("val", layout.ids("val")[1:])
    with pytest.raises(SegopsError, match=r"packed from other files than .*`dvc repro prepare`"):
        run.run(tmp_path)
    assert not (tmp_path / paths.PRETRAINED).exists()
