"""Batches from worker processes through shared memory that is used again.

torch makes a new shared file for every batch. On a virtual machine the system takes 20 ms to give
16 crops of 512 pixels their pages, two thirds of the time to make the crops; copying them out of
pages that exist already takes 2 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segops.data.samplers import BatchStream, SampleKey
from segops.data.workers import READ_AHEAD, stream_loader

Task = tuple[int, list[SampleKey]]
"""Number of a buffer, and the samples to be put there."""


def shared_batches(
    dataset: Dataset[tuple[Tensor, Tensor]],
    batches: BatchStream,
    shape: tuple[int, int, int],
    *,
    workers: int,
    pin_memory: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
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

    Yields:
        Images, uint8 (N, 3, h, w) in channels-last memory, and masks, uint8 (N, h, w).
    """
    buffers = min(READ_AHEAD * workers + 1, max(1, len(batches)))
    images = torch.empty((buffers, *shape, 3), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    masks = torch.empty((buffers, *shape), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    tasks = ((number % buffers, keys) for number, keys in enumerate(batches))
    for number in stream_loader(
        _Buffers(dataset, images, masks), tasks, _unchanged, workers=workers, pin_memory=False
    ):
        image, mask = (
            buffer[number].pin_memory() if pin_memory else buffer[number].clone()
            for buffer in (images, masks)
        )
        yield image.permute(0, 3, 1, 2), mask


@dataclass
class _Buffers:
    """A data set whose samples are put into buffers."""

    dataset: Dataset[tuple[Tensor, Tensor]]
    images: Tensor
    masks: Tensor

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
