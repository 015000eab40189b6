"""One batch size tried in a process of its own: ``python -m segops.tune.probe``.

A process of its own, because memory that ran out leaves nothing to rely on: on the CPU the system
kills whoever asks for too much, and on the GPU what one attempt leaves behind spoils the next one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from segops import files
from segops.params.file import load_params
from segops.runtime.errors import SegopsError

# What is heavy is imported where it is needed: memory is watched before anything takes it.
if TYPE_CHECKING:
    from torch import Tensor

    from segops.train.engine import Engine
    from segops.train.job import Job

OUT_OF_MEMORY = 77
"""Exit status that says so."""
USABLE = 0.9
"""Share of the memory that a batch may take; the rest is for what a training keeps besides."""
SECONDS = 1.0
"""Steps are timed for about this long, two at least."""
SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class ProbeResult:
    """What a batch size came to.

    Attributes:
        memory: Largest memory in use, in bytes: of the process on the CPU, of the device on a GPU.
        images_per_second: Of the training steps alone; making the samples is not counted.
    """

    memory: int
    images_per_second: float


def measure(job: Job) -> ProbeResult:
    """Take a few training steps on one real batch.

    Raises:
        SegopsError: The device has too little memory, or the training cannot be built.
    """
    import torch
    from torch.utils.data import default_collate

    from segops.data.split import selection_split
    from segops.train.batches import build_dataset, build_sampler
    from segops.train.engine import Engine
    from segops.train.hardware import build_fabric, choose_threads, reproducible

    fabric, device, _ = build_fabric(job.params)
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(USABLE)
    ids, _ = selection_split(job.store.ids("train"), job.params.selection_share)
    dataset, sampler = build_dataset(job, ids), build_sampler(job, ids)
    images, masks = default_collate([dataset[key] for key in sampler.batch(0, 0)])
    with reproducible(device, choose_threads(job.hardware), job.params.deterministic):
        engine = Engine(job, fabric)
        engine.train_mode()
        engine.step(images, masks, 0, job.params.lr)  # memory and kernels are found once
        steps, seconds = _timed(engine, images, masks, job.params.lr)
    memory = torch.cuda.max_memory_reserved() if device == "cuda" else peak_memory()
    return ProbeResult(memory, steps * job.params.batch_size / seconds)


def peak_memory() -> int:
    """The largest memory that this process ever held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def end_beyond(limit: int) -> None:
    """End this process with :data:`OUT_OF_MEMORY` as soon as it holds more than `limit` bytes.

    Sooner than the system would, which might choose another process to kill, or begin to swap.
    """

    def watch() -> None:
        process = psutil.Process()
        while process.memory_info().rss <= limit:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(OUT_OF_MEMORY)

    threading.Thread(target=watch, daemon=True).start()


def _timed(engine: Engine, images: Tensor, masks: Tensor, rate: float) -> tuple[int, float]:
    """Steps taken, and the seconds that they took."""
    _wait()
    started, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - started < SECONDS:
        engine.step(images, masks, steps + 1, rate)
        steps += 1
        _wait()
    return steps, time.perf_counter() - started


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--memory", type=int, help="bytes that the process may hold, on the CPU")
    given = parser.parse_args()
    _be_the_first_to_go()
    if given.memory is not None:
        end_beyond(given.memory)
    import torch

    from segops.tune.setup import build_trial, open_store

    settings = load_params(given.root)
    share = {"batch_size": given.batch_size, "devices": 1, "nodes": 1, "sync_batch_norm": False}
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=share)})
    try:
        job = build_trial(given.root, settings, open_store(given.root), given.scratch)
        found: dict[str, Any] = dataclasses.asdict(measure(job))
    except SegopsError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        found = {"error": str(error)}
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY
    files.write_json(given.scratch / f"{given.batch_size}.json", found)
    return 0


def _be_the_first_to_go() -> None:
    """Where memory runs out all the same, the system is to kill this process and no other."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


if __name__ == "__main__":
    sys.exit(_main())
