"""Measures a batch size in a separate process: ``python -m segops.tune.probe``.

On the CPU the system kills a process that takes too much memory; on the GPU an attempt that fails
leaves memory allocated. A separate process protects the search from both.
"""

from __future__ import annotations

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

# Heavy packages are imported later, after the watch on memory has started.
if TYPE_CHECKING:
    from segops.train.job import Job

OUT_OF_MEMORY = 77
"""Exit status of an attempt that ran out of memory."""
USABLE = 0.9
"""Share of the memory that a batch may take; a training needs the rest."""
SECONDS = 1.0
"""About this long steps are timed, at least two."""
SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class ProbeResult:
    """Memory and speed of a batch size.

    Attributes:
        memory: Largest memory in use, in bytes: of the process on the CPU, of the device on a GPU.
        images_per_second: Of the training steps alone, without loading of samples.
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

    from segops.data.selection_split import selection_split
    from segops.train.engine import Engine
    from segops.train.hardware import build_fabric, choose_threads, reproducible
    from segops.train.job import on_images
    from segops.train.loop import build_samples
    from segops.train.unlabelled import unlabelled_batches

    job = on_images(job)
    fabric, device, _ = build_fabric(job.params)
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(USABLE)
    ids, _ = selection_split(job.store.ids("train"), job.params.selection_share)
    dataset, sampler = build_samples(job, ids)
    images, masks = default_collate([dataset[key] for key in sampler.batch(0, 0)])
    with reproducible(device, choose_threads(job.hardware), job.params.deterministic):
        engine = Engine(job, fabric)
        engine.freeze_encoder(job.params.freeze_encoder_epochs >= job.params.epochs)
        engine.train_mode()
        views = next(unlabelled_batches(job, fabric, 1, 0, 0))
        # This step allocates memory and chooses kernels.
        engine.step(images, masks, 0, job.params.lr, views)
        wait: Any = torch.cuda.synchronize if device == "cuda" else lambda: None
        wait()
        started, steps = time.perf_counter(), 0
        while steps < 2 or time.perf_counter() - started < SECONDS:
            steps += 1
            engine.step(images, masks, steps, job.params.lr, views)
            wait()
        seconds = time.perf_counter() - started
    if device == "cuda":
        memory = torch.cuda.max_memory_reserved()
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return ProbeResult(memory, steps * job.params.batch_size / seconds)


def exit_above(limit: int) -> None:
    """End this process with :data:`OUT_OF_MEMORY` as soon as it holds more than `limit` bytes.

    This comes before the system swaps or kills some process, which may be another.
    """

    def watch() -> None:
        process = psutil.Process()
        while process.memory_info().rss <= limit:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os._exit(OUT_OF_MEMORY)

    threading.Thread(target=watch, daemon=True).start()


def _main() -> int:
    root, scratch, size, *memory = sys.argv[1:]
    score = Path("/proc/self/oom_score_adj")
    if score.exists():  # ask the system to kill this process first if memory still runs out
        score.write_text("1000")
    if memory:  # bytes that the process may hold, on the CPU
        exit_above(int(memory[0]))
    import torch

    from segops.tune.setup import build_trial, open_store

    settings = load_params(Path(root))
    share = {"batch_size": int(size), "devices": 1, "nodes": 1, "sync_batch_norm": False}
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=share)})
    try:
        job = build_trial(Path(root), settings, open_store(Path(root)), Path(scratch))
        result: dict[str, Any] = dataclasses.asdict(measure(job))
    except SegopsError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        result = {"error": str(error)}
    except torch.OutOfMemoryError:
        return OUT_OF_MEMORY
    files.write_json(Path(scratch) / f"{size}.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
