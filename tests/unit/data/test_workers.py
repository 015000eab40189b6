"""Batches through shared memory that is used again: whole, in order, and their owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segops.data.samplers import BatchStream, EpochSampler, SampleKey
from segops.data.workers import shared_batches

SHAPE = (4, 5, 6)


class Numbered(Dataset[tuple[Tensor, Tensor]]):
    """Samples that say which they are, and may take their time."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Tensor]:
        epoch, index = key
        if self.slow and index % 3 == 0:
            torch.randn(200, 200) @ torch.randn(200, 200)
        image = torch.full((3, *SHAPE[1:]), epoch, dtype=torch.uint8)
        image[1] = index
        return image, torch.full(SHAPE[1:], index, dtype=torch.uint8)


def stream(epochs: int) -> BatchStream:
    return BatchStream(EpochSampler(20, SHAPE[0], seed=0), epochs)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_batch_is_the_stream_s_however_long_it_is_kept(workers: int) -> None:
    batches = stream(12)  # 60 of them: every slot is used many times
    found = list(
        shared_batches(Numbered(slow=True), batches, SHAPE, workers=workers, pin_memory=False)
    )
    assert len(found) == len(batches) == 60
    for keys, (images, masks) in zip(batches, found, strict=True):
        assert images[:, 0, 0, 0].tolist() == [epoch for epoch, _ in keys]
        assert images[:, 1, 2, 3].tolist() == [index for _, index in keys]
        assert masks[:, 4, 5].tolist() == [index for _, index in keys]
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not images.is_shared()


def test_a_batch_that_is_written_to_changes_no_other() -> None:
    found = shared_batches(Numbered(), stream(4), SHAPE, workers=1, pin_memory=False)
    for keys, (images, masks) in zip(stream(4), found, strict=True):
        assert masks[:, 0, 0].tolist() == [index for _, index in keys]
        images.zero_()
        masks.fill_(200)


def test_two_iterations_at_once_and_one_given_up_halfway() -> None:
    given_up, first, second = (
        shared_batches(Numbered(), stream(3), SHAPE, workers=2, pin_memory=False) for _ in range(3)
    )
    next(given_up)
    for keys, (_, one), (_, other) in zip(stream(3), first, second, strict=True):
        assert one[:, 0, 0].tolist() == other[:, 0, 0].tolist() == [index for _, index in keys]


def test_no_shared_memory_is_left_behind() -> None:
    place = Path("/dev/shm")
    if not place.is_dir():
        pytest.skip("no /dev/shm here")
    before = set(place.iterdir())
    list(shared_batches(Numbered(), stream(2), SHAPE, workers=1, pin_memory=False))
    left = [one for one in set(place.iterdir()) - before if f"_{os.getpid()}_" in one.name]
    assert left == []
