"""The stage with images without masks: what it writes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from segops import files, paths
from segops.augment.policy import build_policy
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params import semi_supervised
from segops.params.augment import AugmentParams
from segops.report import evaluation_page
from segops.report.model_facts import network_words
from segops.runtime.classes import VOC_CLASSES
from segops.stages import train as stage
from segops.voc.layout import open_layout
from tests.support.training import part_without_masks
from tests.unit.stages.test_train import job


@pytest.mark.slow
def test_a_training_tells_which_images_without_masks_it_learned_from(
    tiny_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its figures and curves, in the fingerprint, and in what the model has seen."""
    monkeypatch.setenv("SEGOPS_LIVE", "0")
    part_without_masks(tiny_voc, 4, "more")
    pack(open_layout(tiny_voc, unlabelled="more"), tmp_path / paths.PACKED, VOC_CLASSES)
    files.write_json(tmp_path / paths.POLICY, build_policy(AugmentParams(crop=(64, 64))).to_json())
    tree: dict[str, Any] = {
        "data": {"unlabelled": "more"},
        "augment": {"crop": [64, 64]},
        "model": {"architecture": "plain_cnn", "options": {"width": 4}},
        "train": {"iterations": 2, "batch_size": 2, "warmup_epochs": 0, "device": "cpu",
                  "precision": "fp32", "ema_decay": 0.9,
                  "mean_teacher": {"weight": 1.0, "confidence": 0.0},
                  "adversarial": {"weight": 0.01}},
    }  # fmt: skip
    with_them = job(tmp_path, tree).parts
    stage.run(tmp_path)
    store, training = (
        PackedStore(tmp_path / paths.PACKED),
        files.read_json(tmp_path / paths.TRAINING),
    )
    assert training["unlabelled_hash"] == store.split_hash("unlabelled") == with_them["unlabelled"]
    assert training["unlabelled_images"] == 4
    content = files.read_json(tmp_path / paths.TRAINED / "model.json")
    assert content["extra"]["unlabelled_images"] == 4
    assert content["training_images"] == {
        one: store.image_sha256(one) for one in (*store.ids("train"), *store.ids("unlabelled"))
    }
    assert network_words(content).endswith("made from 8 images of train and 4 without masks")
    curves = pd.read_csv(tmp_path / paths.LEARNING_CURVES)
    assert list(curves) == [*stage.CURVES, *semi_supervised.CURVES]
    assert {*semi_supervised.CURVES} < {name for name, _, _ in evaluation_page.CURVES}
    assert curves.notna()["pseudo_label_loss"].all()
    names = load_file(tmp_path / paths.TRAINED / "weights.safetensors")
    assert not any("teacher" in name or "adversary" in name for name in names)

    tree["train"]["mean_teacher"] = tree["train"]["adversarial"] = {"weight": 0}
    assert "unlabelled" not in job(tmp_path, tree).parts
