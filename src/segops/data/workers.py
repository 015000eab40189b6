"""The processes that make samples, and torch's loader over them."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

ALLOCATOR_KEEPS = 24 << 20
"""Bytes; glibc's own limit for what it keeps is 32 MiB."""

READ_AHEAD = 2
"""Batches that each worker is asked for in advance."""


def stream_loader(
    dataset: Any,
    batches: Iterable[Any],
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
