"""Training steps with real data against steps with one cached batch: what feeding them costs.

The demo's network and parameters (``params.yaml``) on generated images of the sample's size. Real
data comes from the packed store through the full policy and the loader that the stage uses; the
cached batch lies in memory. Both are trained by the same engine, in turns; 1.0 is the limit.
Batches that workers have made in advance, while the other side ran, are used up before the clock
starts.
Run: ``python -m benchmarks.data_bound_training [--workers 0 1]``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import LoopStep, Timer, generated_store, job_of, repeated, settings_of
from segops.data.datasets import TrainDataset, train_loader
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.workers import READ_AHEAD
from segops.train.engine import Engine
from segops.train.hardware import build_fabric, choose_threads, choose_workers, reproducible
from segops.train.job import Job

IMAGES = 48
ROUNDS = 5
STEPS = 10
AIM = 0.9


def real_batches(job: Job, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An endless stream of augmented batches."""
    ids = job.store.ids("train")
    dataset = TrainDataset(job.store, ids, job.policy, job.params.seed)
    sampler = EpochSampler(len(ids), job.params.batch_size, job.params.seed)
    return iter(train_loader(dataset, BatchStream(sampler, 1_000_000), workers=workers))


def compare(job: Job, step: LoopStep, workers: int) -> float:
    """Measure both sides in turn and print the medians; returns cached over real."""
    batches = real_batches(job, workers)
    cached = next(batches)
    timer = Timer(step.engine.fabric.device)
    seconds: dict[str, list[float]] = {"cached": [], "real": []}
    for _ in range(ROUNDS):
        seconds["cached"].append(timer(lambda: step.over(repeated(cached, STEPS), STEPS)))
        step.over(islice(batches, READ_AHEAD * workers + 1), READ_AHEAD * workers + 1)
        seconds["real"].append(timer(lambda: step.over(islice(batches, STEPS), STEPS)))
    medians = {name: statistics.median(values) / STEPS for name, values in seconds.items()}
    ratio = statistics.median(
        one / other for one, other in zip(seconds["cached"], seconds["real"], strict=True)
    )
    print(
        f"  {workers} worker(s): cached batch {medians['cached'] * 1e3:6.1f} ms a step, "
        f"real data {medians['real'] * 1e3:6.1f} ms, ratio {ratio:.3f} "
        f"(1.0 is the limit, {AIM} or more is wanted)"
    )
    return ratio


def main() -> None:
    """Generate images, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, nargs="+", help="default: 0, 1, and as params say")
    parser.add_argument("--threads", type=int, help="of torch; default: as params say")
    given = parser.parse_args()
    settings = settings_of()
    with tempfile.TemporaryDirectory() as directory:
        store = generated_store(Path(directory), IMAGES)
        job = job_of(settings, store, Path(directory))
        fabric, device, precision = build_fabric(job.params)
        threads = given.threads or choose_threads(job.hardware)
        with reproducible(device, threads, job.params.deterministic):
            step = LoopStep(job, Engine(job, fabric))
            print(
                f"{job.spec.architecture}, {job.spec.encoder}, {job.params.batch_size} crops of "
                f"{job.policy.crop[0]} x {job.policy.crop[1]}, {precision} on {device}, "
                f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds of {STEPS} steps:"
            )
            for workers in given.workers or sorted({0, 1, choose_workers(job.hardware, device)}):
                compare(job, step, workers)


if __name__ == "__main__":
    main()
