"""The stage before its first step: what it takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from segops import files, params
from segops.augment.policy import build_policy
from segops.data.store import PackedStore, pack
from segops.errors import SegopsError
from segops.params import parse
from segops.stages import train as stage
from segops.voc.classes import VOC_CLASSES
from segops.voc.layout import open_layout


@pytest.fixture
def root(tiny_voc: Path, tmp_path: Path) -> Path:
    pack(open_layout(tiny_voc), tmp_path / files.PACKED, VOC_CLASSES)
    files.write_json(tmp_path / files.POLICY, build_policy(parse({}).augment).to_json())
    return tmp_path


def job(root: Path, tree: dict[str, Any]) -> stage.Job:
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return stage._job(root, params.load(root), PackedStore(root / files.PACKED))


def test_the_job_is_what_params_say(root: Path) -> None:
    made = job(
        root, {"model": {"architecture": "fpn", "encoder": "resnet34"}, "train": {"seed": 5}}
    )
    assert (made.spec.architecture, made.spec.encoder, made.spec.classes) == ("fpn", "resnet34", 21)
    assert made.params.seed == 5
    assert made.policy.crop == (512, 512)
    assert made.resume == root / ".segops" / "resume"
    assert made.history.params["model.encoder"] == "resnet34"


def test_a_local_encoder_file_is_found_from_the_workspace(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (root / "weights").mkdir()
    tensors = get_encoder("resnet18", weights=None).state_dict()
    save_file(tensors, root / "weights" / "r18.safetensors")
    made = job(root, {"model": {"encoder_weights": "weights/r18.safetensors"}})
    assert made.encoder_weights == str(root / "weights" / "r18.safetensors")


def test_a_missing_encoder_file_is_named(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"encoder_weights: gone\.safetensors: no such file"):
        job(root, {"model": {"encoder_weights": "gone.safetensors"}})


def test_imagenet_without_network_is_told_before_anything_is_trained(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"model\.encoder_weights: imagenet.*null"):
        job(root, {"model": {"encoder_weights": "imagenet"}})


def test_other_classes_than_packed_are_refused(root: Path) -> None:
    with pytest.raises(SegopsError, match=r"data\.classes.*dvc repro prepare"):
        job(root, {"data": {"classes": ["background", "cat"]}})


def test_live_logging_can_be_switched_off_and_never_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEGOPS_LIVE", "0")
    stage._start_live_logging(root)
    assert not (root / stage.FOLLOW_LOG).exists()
    monkeypatch.setenv("SEGOPS_LIVE", "1")
    monkeypatch.setattr("sys.executable", str(root / "no-such-python"))
    stage._start_live_logging(root)
    assert "Live logging did not start" in caplog.text
