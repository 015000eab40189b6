"""What our training loop costs per step, against the barest torch loop on the same step.

Both train one and the same network with one and the same optimiser, those of the demo
(``params.yaml``), so that not even their place in memory differs, in the same precision on the same
batch, whose size is chosen so that a step takes about 50 ms. The bare loop is six lines of torch.
Ours is what the stage runs for every batch: progress, schedule, Fabric, engine, loss log; the
moving average is off. Steps are taken in turn and the fastest of each side are compared, so that
what else the machine does weighs on neither, as long as each side has met a quiet moment. How far
that is so is seen from the bare loop, which is measured twice: between its two minima there is
nothing but chance. One thread, unless told otherwise: on two shared cores chance alone makes 2 %.
Run: ``python -m benchmarks.loop_overhead``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import (
    LoopStep,
    Timer,
    generated_store,
    job_of,
    random_batch,
    repeated,
    settings_of,
)
from segops.progress import track
from segops.train.engine import Engine
from segops.train.hardware import build_fabric, choose_threads, reproducible

PAIRS = 400
WANTED_SECONDS = 0.05
AIM = 2.0
CROP = (64, 64)
FIRST_SIZE = 8


def bare(engine: Engine, precision: str) -> Callable[[Tensor, Tensor], None]:
    """A plain loop's step on the engine's own network and optimiser, without what wraps them."""
    network, optimizer = engine.network.train(), engine.optimizer.optimizer
    device = engine.fabric.device

    def step(images: Tensor, masks: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = engine.loss(network(images.to(device)), masks.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(engine: Engine, precision: str, pairs: int) -> float:
    """Measure pairs of steps and print; returns the overhead in percent."""
    timer, plain = Timer(engine.fabric.device), bare(engine, precision)
    loop = LoopStep(engine.job, engine)
    size = _size_of(plain, timer)
    images, masks = random_batch(size, CROP, engine.job.spec.classes)
    images = images.contiguous(memory_format=engine.layout)
    # As in an epoch: the loop asks for the next batch through the bar of progress.
    shown: Iterator[tuple[Tensor, Tensor]] = track(
        repeated((images, masks), pairs + 2), "benchmark", total=pairs + 2
    )
    sides: dict[str, Callable[[], object]] = {
        "bare": lambda: plain(images, masks),
        "bare again": lambda: plain(images, masks),
        "loop": lambda: loop(*next(shown)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for pair in range(pairs + 2):
        # Whoever goes second finds other caches: all take turns at that too.
        names.append(names.pop(0))
        for name in names:
            taken = timer(sides[name])
            if pair >= 2:
                seconds[name].append(taken)
    least = {name: min(values) for name, values in seconds.items()}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    overhead, chance = (100 * (least[one] / least["bare"] - 1) for one in ("loop", "bare again"))
    of_medians = 100 * (middle["loop"] / middle["bare"] - 1)
    print(
        f"{pairs} pairs of steps, {size} crops of {CROP[0]} x {CROP[1]}: fastest bare "
        f"{least['bare'] * 1e3:.2f} ms, fastest of the loop {least['loop'] * 1e3:.2f} ms: overhead "
        f"{overhead:.2f} % (under {AIM:g} % is wanted; of the medians {of_medians:.2f} %; the bare "
        f"loop against itself {chance:+.2f} %)"
    )
    return overhead


def _size_of(step: Callable[[Tensor, Tensor], None], timer: Timer) -> int:
    """Images of a batch that takes about the wanted time."""
    size = FIRST_SIZE
    for _ in range(2):
        batch = random_batch(size, CROP, 2)
        least = min(timer(lambda: step(*batch)) for _ in range(10))  # noqa: B023
        size = max(2, math.ceil(size * WANTED_SECONDS / least))
    return size


def main() -> None:
    """Build both loops, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0: as params say")
    given = parser.parse_args()
    settings = settings_of(ema_decay=None)
    with tempfile.TemporaryDirectory() as directory:
        store = generated_store(Path(directory), 2)
        job = job_of(settings, store, Path(directory))
        fabric, device, precision = build_fabric(job.params)
        threads = given.threads or choose_threads(job.hardware)
        with reproducible(device, threads, job.params.deterministic):
            print(
                f"{job.spec.architecture}, {job.spec.encoder}, {precision} on {device}, "
                f"{torch.get_num_threads()} threads"
            )
            compare(Engine(job, fabric), precision, given.pairs)


if __name__ == "__main__":
    main()
