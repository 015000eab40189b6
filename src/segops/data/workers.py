"""The processes that make samples, and the batches that they hand over."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segops.data.samplers import BatchStream, SampleKey
from segops.runtime.bands import RGB

ALLOCATOR_KEEPS = 24 << 20
"""Bytes; glibc's own limit for what it keeps is 32 MiB."""

READ_AHEAD = 2
"""Batches that each worker is asked for in advance."""

Task = tuple[int, list[SampleKey]]
"""Number of a buffer, and the samples to be put there."""


def stream_loader(
    dataset: Any,
    batches: Iterable[Any],
    collate: Callable[[Any], Any],
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """A loader that changes no global state and starts its workers at once.

    `collate` makes a batch in the process that made its samples. With 0 workers that is this one.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=READ_AHEAD if workers else None,
        worker_init_fn=_start_worker,
        # Without this, a loader draws a seed from the generator that training saves.
        generator=torch.Generator(),
        # A fork starts at once and shares all loaded modules. It is safe here because workers run
        # on one thread, use no GPU and leave the parent's threads and files alone.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _start_worker(_: int) -> None:
    # The worker must not finalise the parent's garbage, which may hold an earlier loader that would
    # then send its end to the wrong processes.
    gc.freeze()
    # Nor run what the parent's libraries registered for the end of threads: Prefect would wait for
    # threads that a fork does not have, and the worker would end with an error.
    getattr(threading, "_threading_atexits", []).clear()
    # Each worker has one core; OpenCV's threads would only compete for it.
    cv2.setNumThreads(0)
    # glibc keeps freed blocks up to the largest size that was freed before. Without this it returns
    # the pages of each crop to the system and takes new ones: a third of the time of a sample.
    np.empty(ALLOCATOR_KEEPS, dtype=np.uint8)


def shared_batches(
    dataset: Dataset[tuple[Tensor, Tensor]],
    batches: BatchStream,
    shape: tuple[int, int, int],
    *,
    workers: int,
    pin_memory: bool,
    channels: int = RGB,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a data set, made by worker processes; the caller owns each batch.

    torch makes a new shared file for every batch. On a virtual machine the system takes 20 ms to
    give 16 crops of 512 pixels their pages, two thirds of the time to make the crops; copying them
    out of pages that exist already takes 2 ms.

    Batch k is made in buffer ``k % buffers`` and copied when it is handed out. There is one buffer
    more than batches are requested in advance, so a buffer is requested again only after its last
    batch was copied: batch ``k + buffers - 1`` is requested when batch k arrives, and takes the
    buffer of batch ``k - 1``.

    Args:
        dataset: Makes a sample, (image uint8 (C, h, w), mask uint8 (h, w)), of every key.
        batches: The keys of every batch.
        shape: Batch size, height and width.
        workers: Processes, 1 or more.
        pin_memory: Put batches in page-locked memory, for a GPU.
        channels: C.

    Yields:
        Images, uint8 (N, C, h, w) in channels-last memory, and masks, uint8 (N, h, w).
    """
    buffers = min(READ_AHEAD * workers + 1, max(1, len(batches)))
    images = torch.empty((buffers, *shape, channels), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
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
