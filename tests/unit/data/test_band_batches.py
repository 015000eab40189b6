"""Batches of other than three channels: workers, copy-paste, and augmentation on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segops.augment.policy import Policy, build_policy
from segops.data.copy_paste import CopyPaste
from segops.data.datasets import TrainDataset, train_loader
from segops.data.device.augmentation import device_batches
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.params.samples import CopyPasteParams
from tests.support.band_data import CLASSES, IN_ONE_FILE, write_band_data

COLOURS = {"color_jitter": {"p": 0.7}, "photometric": {"p": 0.7}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackedStore:
    root = tmp_path_factory.mktemp("bands")
    pack(write_band_data(root / "voc", IN_ONE_FILE, train=4, val=1), root / "packed", CLASSES)
    return PackedStore(root / "packed")


def dataset(store: PackedStore, policy: Policy) -> TrainDataset:
    ids = store.ids("train")
    params = CopyPasteParams(p=0.8, min_area=4, classes=("crop",))
    return TrainDataset(store, ids, policy, 3, CopyPaste.of(store, ids, params))


def batches() -> BatchStream:
    return BatchStream(EpochSampler(4, 2, seed=1), 2)


def policy_of(store: PackedStore, noise: float = 0.2) -> Policy:
    params = {"crop": (40, 48), "blur": {"p": 0.3}, "noise": {"p": noise}, **COLOURS}
    return build_policy(AugmentParams.model_validate(params), store.statistics.fill)


def test_batches_do_not_depend_on_workers(store: PackedStore) -> None:
    made = dataset(store, policy_of(store))
    alone, by_worker = (
        [(image.clone(), mask.clone()) for image, mask in train_loader(made, batches(), workers=n)]
        for n in (0, 1)
    )
    assert len(alone) == len(by_worker) == 4
    for (image, mask), (other, other_mask) in zip(alone, by_worker, strict=True):
        assert image.shape == (2, 4, 40, 48)
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(image, other)
        assert torch.equal(mask, other_mask)


def test_the_device_augments_all_channels_as_the_cpu_does(store: PackedStore) -> None:
    made = dataset(store, policy_of(store, noise=0.0))
    on_device = device_batches(made, batches(), device=torch.device("cpu"))
    for (image, mask), (other, other_mask) in zip(
        train_loader(made, batches()), on_device, strict=True
    ):
        assert other.shape == (2, 4, 40, 48)
        assert (mask != other_mask).float().mean() < 5e-3
        difference = np.abs(image.int().numpy() - other.int().numpy())
        assert (difference.mean(axis=(0, 2, 3)) < 2).all()
