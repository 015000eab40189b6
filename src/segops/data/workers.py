"""The processes that make samples, and torch's loader over them."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

ALLOCATOR_KEEPS = 24 << 20
"""Bytes; glibc's own limit for what it keeps is 32 MiB."""

READ_AHEAD = 2
"""Batches that each worker is asked for in advance."""


def stream_loader(
    dataset: Dataset[Any],
    batches: Sampler[Any],
    collate: Callable[[Any], Any],
    *,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """A loader that changes no global state and starts its workers at once.

    Args:
        dataset: Makes a sample of every (epoch, index).
        batches: The keys of every batch.
        collate: Makes a batch of samples, in the process that made them.
        workers: Processes that make samples; 0: this one.
        pin_memory: Put batches in page-locked memory, for a GPU.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=READ_AHEAD if workers else None,
        worker_init_fn=_start_worker,
        # Without one of its own, a loader draws a seed from the generator that training saves.
        generator=torch.Generator(),
        # A fork starts at once and shares all that is loaded; it is safe here because workers run
        # on one thread, touch no GPU and leave the parent's threads and files alone.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _start_worker(_: int) -> None:
    # What the parent has left to collect is not the worker's to finalise: it could be an earlier
    # loader, whose end would be told to the wrong processes.
    gc.freeze()
    # Nor is what the parent's libraries want done when threads end: Prefect's would wait for
    # threads that no fork has, and the worker would end with an error.
    getattr(threading, "_threading_atexits", []).clear()
    # Every worker has one core; OpenCV's own threads would only contend for it.
    cv2.setNumThreads(0)
    # glibc keeps freed blocks of up to the largest size it has seen freed. Without this it returns
    # the pages of every crop to the system and takes new ones, a third of the time of a sample.
    np.empty(ALLOCATOR_KEEPS, dtype=np.uint8)
