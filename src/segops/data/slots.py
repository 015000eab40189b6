"""Batches from worker processes through memory that is shared once and used again.

torch's own way makes a new shared file for every batch. On a virtual machine the system takes 20 ms
to give 16 crops of 512 pixels their pages, two thirds of what it takes to make them; copying them
out of pages that are there already takes 2 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from segops.data.samplers import BatchStream, SampleKey
from segops.data.workers import READ_AHEAD, stream_loader

Task = tuple[int, list[SampleKey]]
"""Number of a slot, and the samples to be put there."""


class SlotLoader:
    """The batches of a data set, made by worker processes; each is a copy that is its owner's.

    Batch k goes to slot ``k % slots``. There is one slot more than batches are asked for in
    advance, so that a slot is asked for again only after its last batch was copied: batch
    ``k + slots - 1`` is asked for when batch k arrives, and takes the slot of batch ``k - 1``.

    Args:
        dataset: Makes a sample, (image uint8 (3, h, w), mask uint8 (h, w)), of every key.
        batches: The keys of every batch.
        shape: Batch size, height and width, the same for all batches.
        workers: Processes, 1 or more.
        pin_memory: Put batches in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, Tensor]],
        batches: BatchStream,
        shape: tuple[int, int, int],
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.shape = shape
        self.workers = workers
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches in one iteration."""
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out (images uint8 (N, 3, h, w) channels-last, masks uint8 (N, h, w))."""
        slots = min(READ_AHEAD * self.workers + 1, max(1, len(self)))
        images = torch.empty((slots, *self.shape, 3), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        masks = torch.empty((slots, *self.shape), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        loader = stream_loader(
            _SlotDataset(self.dataset, images, masks),
            _SlotSampler(self.batches, slots),
            _as_it_is,
            workers=self.workers,
            pin_memory=False,
        )
        for slot in loader:
            yield self._own(images[slot]).permute(0, 3, 1, 2), self._own(masks[slot])

    def _own(self, shared: Tensor) -> Tensor:
        return shared.pin_memory() if self.pin_memory else shared.clone()


class _SlotSampler(Sampler[Task]):
    def __init__(self, batches: BatchStream, slots: int) -> None:
        self.batches = batches
        self.slots = slots

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Task]:
        for number, keys in enumerate(self.batches):
            yield number % self.slots, keys


class _SlotDataset(Dataset[Any]):
    def __init__(
        self, dataset: Dataset[tuple[Tensor, Tensor]], images: Tensor, masks: Tensor
    ) -> None:
        self.dataset = dataset
        self.images = images
        self.masks = masks

    def __getitems__(self, task: Task) -> int:
        """Make the samples of a task in its slot; torch calls this with what the sampler gave."""
        slot, keys = task
        for row, key in enumerate(keys):
            image, mask = self.dataset[key]
            self.images[slot, row] = image.permute(1, 2, 0)
            self.masks[slot, row] = mask
        return slot


def _as_it_is(slot: int) -> int:
    return slot
