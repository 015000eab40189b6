"""Batches are a function of (seed, epoch, index), whoever makes them and wherever one begins."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segops.augment.policy import build_policy, sample_seed
from segops.data.datasets import TrainDataset, train_loader
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.runtime.classes import VOC_CLASSES
from segops.voc.layout import open_layout

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def dataset(tiny_voc: Path, tmp_path: Path) -> TrainDataset:
    pack(open_layout(tiny_voc), tmp_path / "packed", VOC_CLASSES)
    store = PackedStore(tmp_path / "packed")
    policy = build_policy(AugmentParams(crop=(40, 48)))
    return TrainDataset(store, store.ids("train"), policy, seed=5)


def equal(first: Batches, second: Batches) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other)
        for batch, twin in zip(first, second, strict=True)
        for one, other in zip(batch, twin, strict=True)
    )


def test_a_sample_is_the_policy_applied_to_the_stored_image(dataset: TrainDataset) -> None:
    image, mask = dataset[3, 7]
    assert image.shape == (3, 40, 48)
    assert mask.shape == (40, 48)
    assert image.dtype == mask.dtype == torch.uint8
    image_id = dataset.image_id(7)
    crop, crop_mask = dataset.policy(
        dataset.store.image(image_id), dataset.store.mask(image_id), sample_seed(5, 3, 7)
    )
    assert np.array_equal(image.permute(1, 2, 0).numpy(), crop)
    assert np.array_equal(mask.numpy(), crop_mask)


def test_samples_differ_between_epochs_seeds_and_rounds(dataset: TrainDataset) -> None:
    other = TrainDataset(dataset.store, dataset.ids, dataset.policy, seed=6)
    again = len(dataset) + 2
    assert dataset.image_id(again) == dataset.image_id(2)
    images = [dataset[0, 2][0], dataset[1, 2][0], dataset[0, again][0], other[0, 2][0]]
    assert len({image.numpy().tobytes() for image in images}) == 4


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_workers(dataset: TrainDataset, workers: int) -> None:
    sampler = EpochSampler(len(dataset), 5, seed=1)
    expected = [
        tuple(torch.stack(part) for part in zip(*(dataset[key] for key in keys), strict=True))
        for epoch in range(3)
        for keys in sampler.batches(epoch)
    ]
    loader = train_loader(dataset, BatchStream(sampler, 3), workers=workers)
    found = list(loader)
    assert len(found) == len(expected) == 6
    assert equal(found, expected)  # type: ignore[arg-type]
    for images, masks in found:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert masks.is_contiguous()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 2, 3, 5, 6])
def test_resuming_changes_nothing(dataset: TrainDataset, done: int, workers: int) -> None:
    sampler = EpochSampler(len(dataset), 5, seed=1)
    whole = list(train_loader(dataset, BatchStream(sampler, 3)))
    epoch, batch = divmod(done, len(sampler))
    rest = list(train_loader(dataset, BatchStream(sampler, 3, epoch, batch), workers=workers))
    assert len(rest) == len(whole) - done
    assert equal(rest, whole[done:])


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_s_global_generator_is_left_alone(dataset: TrainDataset, workers: int) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(
        train_loader(
            dataset, BatchStream(EpochSampler(len(dataset), 4, seed=1), 1), workers=workers
        )
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_worker_s_error_reaches_the_caller(
    dataset: TrainDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long torch waits for a worker that failed; 5 seconds otherwise.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    broken = TrainDataset(dataset.store, ["unknown"], dataset.policy, seed=0)
    with pytest.raises(KeyError, match="unknown") as caught:
        list(train_loader(broken, BatchStream(EpochSampler(1, 1, seed=0), 1), workers=1))
    del caught
    gc.collect()


def test_a_data_set_can_be_pickled(dataset: TrainDataset) -> None:
    twin = pickle.loads(pickle.dumps(dataset))
    for one, other in zip(twin[2, 4], dataset[2, 4], strict=True):
        assert torch.equal(one, other)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 5), st.integers(0, 100))
def test_an_epoch_is_a_shuffled_pass_in_full_batches(
    length: int, batch_size: int, epoch: int, seed: int
) -> None:
    sampler = EpochSampler(length, batch_size, seed)
    batches = list(sampler.batches(epoch))
    assert len(batches) == len(sampler) == max(1, length // batch_size)
    assert {len(batch) for batch in batches} == {batch_size}
    assert {one for batch in batches for one, _ in batch} == {epoch}
    indices = [index for batch in batches for _, index in batch]
    assert len(set(indices)) == len(indices)
    images = np.bincount([index % length for index in indices], minlength=length)
    # Every image as often as the others, give or take the last one of an incomplete round.
    assert images.max() - images.min() <= 1
    if length >= batch_size:
        assert max(indices) < length
    assert [sampler.batch(epoch, number) for number in range(len(batches))] == batches


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(EpochSampler(20, 4, seed).order(epoch)) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_what_is_left_out_changes_from_epoch_to_epoch() -> None:
    sampler = EpochSampler(10, 4, seed=0)
    left_out = [set(range(10)) - set(sampler.order(epoch).tolist()) for epoch in range(60)]
    assert all(len(one) == 2 for one in left_out)
    assert set.union(*left_out) == set(range(10))


def test_a_stream_counts_what_is_left() -> None:
    sampler = EpochSampler(10, 4, seed=0)
    assert len(BatchStream(sampler, 3)) == len(list(BatchStream(sampler, 3))) == 6
    assert len(BatchStream(sampler, 3, 2, 1)) == 1
    assert list(BatchStream(sampler, 3, 2, 1)) == [sampler.batch(2, 1)]
    assert len(BatchStream(sampler, 3, 3)) == 0


@pytest.mark.parametrize(("length", "batch_size"), [(0, 4), (4, 0)])
def test_no_images_or_no_batch_are_refused(length: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="expected 1 image or more"):
        EpochSampler(length, batch_size, seed=0)
