"""The loop of pretraining: the loss falls, and a killed one ends with the same weights."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segops.augment.policy import build_policy
from segops.data.datasets import CropDataset
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.params.pretrain import PretrainParams
from segops.params.train import TrainParams
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.train import pretraining
from segops.train.pretraining import Pretrained, PretrainJob, loop_params, pretrain
from segops.voc.layout import open_layout
from tests.support.networks import small
from tests.support.training import HARDWARE, Killed, same

ARCHITECTURES = ["linear", "unet"]


@pytest.fixture
def store(tiny_voc: Path, tmp_path: Path, one_thread: None) -> PackedStore:
    pack(open_layout(tiny_voc), tmp_path / "packed", VOC_CLASSES)
    return PackedStore(tmp_path / "packed")


def job(store: PackedStore, architecture: str, **params: Any) -> PretrainJob:
    values = {
        "epochs": 3, "batch_size": 4, "warmup_epochs": 0, "lr": 0.003, "crop": (64, 64),
        "mask_block": 16, "decoder_width": 32, "decoder_depth": 1,
    }  # fmt: skip
    settings = PretrainParams.model_validate(values | params)
    train = TrainParams(device="cpu", precision="fp32")
    policy = build_policy(AugmentParams(crop=settings.crop))
    return PretrainJob(
        params=settings,
        train=loop_params(train, settings),
        hardware=HARDWARE,
        spec=small(architecture),
        encoder_weights=None,
        dataset=CropDataset(store, store.ids("train"), policy, settings.seed),
        parts={"parameters": repr(sorted(params.items()))},
        resume=store.path.parent / architecture,
    )


def interrupt(one: PretrainJob, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrain until `steps` steps are taken, a checkpoint after every one, then die."""
    take, taken = pretraining._Pretraining._take_step, 0

    def dying(self: Any, *batch: torch.Tensor) -> None:
        nonlocal taken
        if taken == steps:
            raise Killed
        take(self, *batch)
        taken += 1

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(pretraining, "CHECKPOINT_SHARE", float("inf"))
        patch.setattr(pretraining._Pretraining, "_take_step", dying)
        with pytest.raises(Killed):
            pretrain(one)


def equal(one: Pretrained, other: Pretrained) -> bool:
    shown = zip(one.restored, other.restored, strict=True)
    pictures = all(
        np.array_equal(left, right)
        for own, its in shown
        for left, right in zip(own[1:], its[1:], strict=True)
    )
    return same(one.weights, other.weights) and one.rows == other.rows and pictures


@pytest.mark.parametrize(("architecture", "steps"), [("linear", 7), ("unet", 3)])
def test_a_killed_pretraining_ends_with_the_same_weights(
    architecture: str, steps: int, store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = pretrain(replace(job(store, architecture), resume=store.path.parent / "unbroken"))
    interrupt(job(store, architecture), steps, monkeypatch)
    assert equal(pretrain(job(store, architecture)), unbroken)
    assert [row["step"] for row in unbroken.rows] == [3, 6, 9]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_falls_and_the_seed_decides(architecture: str, store: PackedStore) -> None:
    found = pretrain(job(store, architecture, epochs=14))
    losses = [row["train_loss"] for row in found.rows]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:2])
    assert len(found.restored) == pretraining.SHOWN
    assert {one.crop.shape for one in found.restored} == {(64, 64, 3)}
    one, other = (pretrain(job(store, architecture, epochs=1, seed=seed)) for seed in (0, 1))
    assert not same(one.weights, other.weights)


def test_masks_play_no_part(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(job(store, "unet", epochs=1))
    monkeypatch.delattr(PackedStore, "mask")
    assert equal(pretrain(job(store, "unet", epochs=1)), whole)


def test_a_diverged_pretraining_names_its_own_parameters(store: PackedStore) -> None:
    with pytest.raises(SegopsError, match=r"diverged.*Lower pretrain\.lr.*set train\.precision"):
        pretrain(job(store, "unet", lr=1e30))


def test_a_warm_up_that_takes_all_steps_names_its_own_parameters(store: PackedStore) -> None:
    made = job(store, "unet", epochs=1, warmup_epochs=0.9)
    with pytest.raises(SegopsError, match=r"^pretrain\.warmup_epochs: 0\.9") as error:
        pretrain(made)
    assert "Set pretrain.warmup_epochs to 0, or pretrain.epochs to 2 or more" in str(error.value)
    assert " train." not in str(error.value)


def test_weights_that_do_not_fit_name_its_own_parameter(store: PackedStore, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"no weights")
    for weights in (str(torn), "imagnet"):
        start = replace(job(store, "unet"), encoder_weights=weights)
        with pytest.raises(SegopsError, match=r"^pretrain\.encoder_weights: ") as caught:
            pretrain(start)
        assert "model.encoder_weights" not in str(caught.value)


def test_operations_without_a_deterministic_kernel_are_told(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch warns of one on CUDA."""
    take = pretraining._Pretraining._take_step

    def warning(self: Any, *given: torch.Tensor) -> None:
        warnings.warn("an_operation does not have a deterministic implementation", stacklevel=1)
        take(self, *given)

    monkeypatch.setattr(pretraining._Pretraining, "_take_step", warning)
    assert pretrain(job(store, "unet", epochs=1)).nondeterministic == ("an_operation",)
