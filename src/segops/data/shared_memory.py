"""Batches from worker processes through shared memory that is used again.

torch makes a new shared file for every batch. On a virtual machine the system takes 20 ms to give
16 crops of 512 pixels their pages, two thirds of the time to make the crops; copying them out of
pages that exist already takes 2 ms.
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
"""Number of a buffer, and the samples to be put there."""


class SharedMemoryLoader:
    """The batches of a data set, made by worker processes; the caller owns each batch.

    Batch k is made in buffer ``k % buffers`` and copied when it is handed out. There is one buffer
    more than batches are requested in advance, so a buffer is requested again only after its last
    batch was copied: batch ``k + buffers - 1`` is requested when batch k arrives, and takes the
    buffer of batch ``k - 1``.

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
        buffers = min(READ_AHEAD * self.workers + 1, max(1, len(self)))
        images = torch.empty((buffers, *self.shape, 3), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        masks = torch.empty((buffers, *self.shape), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        loader = stream_loader(
            _BufferDataset(self.dataset, images, masks),
            _BufferSampler(self.batches, buffers),
            _unchanged,
            workers=self.workers,
            pin_memory=False,
        )
        for number in loader:
            yield self._copy(images[number]).permute(0, 3, 1, 2), self._copy(masks[number])

    def _copy(self, shared: Tensor) -> Tensor:
        return shared.pin_memory() if self.pin_memory else shared.clone()


class _BufferSampler(Sampler[Task]):
    def __init__(self, batches: BatchStream, buffers: int) -> None:
        self.batches = batches
        self.buffers = buffers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Task]:
        for number, keys in enumerate(self.batches):
            yield number % self.buffers, keys


class _BufferDataset(Dataset[Any]):
    def __init__(
        self, dataset: Dataset[tuple[Tensor, Tensor]], images: Tensor, masks: Tensor
    ) -> None:
        self.dataset = dataset
        self.images = images
        self.masks = masks

    def __getitems__(self, task: Task) -> int:
        """Make the samples of a task in its buffer; torch calls this with what the sampler gave."""
        number, keys = task
        for row, key in enumerate(keys):
            image, mask = self.dataset[key]
            self.images[number, row] = image.permute(1, 2, 0)
            self.masks[number, row] = mask
        return number


def _unchanged(number: int) -> int:
    return number
