"""What is timed on the card: matrix products, training steps, feeding them, confusion matrices."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.common import Timer, random_batch
from benchmarks.gpu.training_loops import (
    Plan,
    TrainingLoop,
    image_flops,
    job_on,
    ours,
    training_loops,
)
from segops.data.datasets import TrainDataset, train_loader
from segops.data.device.augmentation import device_batches
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.data.workers import READ_AHEAD
from segops.metrics.confusion import confusion_matrix
from segops.metrics.device_confusion import DeviceConfusion
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.threads import cores

Row = dict[str, Any]
DEVICE_WORKERS = 4
"""Processes that fetch and draw for the device's executor; one does it at thousands a second."""


def steps(
    plan: Plan, store: PackedStore, directory: Path, batch_size: int, peak_flops: float
) -> list[Row]:
    """Images a second of every loop on one cached batch, in turns."""
    device = torch.device(plan.device)
    images, masks = random_batch(batch_size, (plan.crop, plan.crop), len(VOC_CLASSES))
    batch = images.to(device), masks.to(device)
    rows: list[Row] = []
    running: list[tuple[Row, TrainingLoop, int]] = []
    for name, make in training_loops(plan, store, directory, batch_size):
        row: Row = {"batch": batch_size, "name": name, "rates": []}
        try:
            loop = make()
            row |= _first_steps(plan, loop, batch)
        # One that cannot run here (memory, no compiler) must not cost the visit's other figures.
        except (RuntimeError, SegopsError) as error:
            row["error"] = str(error).strip().split("\n")[0]
            if plan.device == "cuda":
                torch.cuda.empty_cache()
        else:
            count = max(1, round(plan.seconds / row["step_seconds"]))
            running.append((row, loop, count))
        rows.append(row)
    timer = Timer(device)
    for _, (row, loop, count) in itertools.product(range(plan.rounds), running):
        with loop.mode():
            seconds = timer(lambda: [loop.take(*batch) for _ in range(count)])  # noqa: B023
        row["rates"].append(count * batch_size / seconds)
    flops = image_flops(plan)
    for row, _, _ in running:
        row["images_per_second"] = statistics.median(row.pop("rates"))
        row["tflops"] = row["images_per_second"] * flops / 1e12
        row["share_of_peak"] = row["images_per_second"] * flops / peak_flops
    return rows


def _first_steps(plan: Plan, loop: TrainingLoop, batch: tuple[Tensor, Tensor]) -> Row:
    """Compile and warm up; then the time of a step and the memory that it takes at most."""
    on_gpu = plan.device == "cuda"
    timer = Timer(torch.device(plan.device))
    with loop.mode():
        first = timer(lambda: loop.take(*batch))
        before = 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        warm = [timer(lambda: loop.take(*batch)) for _ in range(plan.warm_up)]
    # What a step takes beside the weights and states of every loop.
    used = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    return {"first_seconds": first, "step_seconds": min(warm), "step_gib": used / 2**30}


def feeding(plan: Plan, store: PackedStore, directory: Path, batch_size: int) -> list[Row]:
    """Images a second with real data from either executor, against one cached batch, in turns."""
    job = job_on(plan, store, directory, batch_size, compile=plan.compile)
    loop = ours(job)
    ids = store.ids("train")
    dataset = TrainDataset(store, ids, job.policy, seed=0)
    sampler = EpochSampler(len(ids), batch_size, seed=0)
    on_gpu = plan.device == "cuda"
    workers = {"cpu": cores() if on_gpu else 0, "gpu": DEVICE_WORKERS if on_gpu else 0}
    workers["gpu"] = min(workers["gpu"], workers["cpu"])
    batches = BatchStream(sampler, 1_000_000)
    streams: dict[str, Iterator[tuple[Tensor, Tensor]]] = {
        "cpu": iter(train_loader(dataset, batches, workers=workers["cpu"], pin_memory=on_gpu)),
        "gpu": device_batches(
            dataset, batches, device=torch.device(plan.device), workers=workers["gpu"]
        ),
    }
    timer = Timer(torch.device(plan.device))
    with loop.mode():
        cached = tuple(one.to(plan.device) for one in next(streams["gpu"]))
        warm = [timer(lambda: loop.take(*cached)) for _ in range(1 + plan.warm_up)]
        count = max(1, round(plan.seconds / min(warm)))
        streams["cached"] = itertools.repeat((cached[0], cached[1]))
        rates: dict[str, list[float]] = {name: [] for name in streams}
        for _, (name, stream) in itertools.product(range(plan.rounds), streams.items()):
            _take(loop, stream, READ_AHEAD * workers.get(name, 0) + 1)
            seconds = timer(lambda: _take(loop, stream, count))  # noqa: B023
            rates[name].append(count * batch_size / seconds)
        alone = {name: _alone(streams[name], batch_size, plan, timer) for name in workers}
    limit = statistics.median(rates["cached"])
    return [
        {
            "batch": batch_size,
            "executor": name,
            "workers": workers.get(name),
            "images_per_second": statistics.median(values),
            "share_of_cached": statistics.median(values) / limit,
            "loader_alone": alone.get(name),
        }
        for name, values in rates.items()
    ]


def _take(loop: TrainingLoop, stream: Iterator[tuple[Tensor, Tensor]], count: int) -> None:
    for images, masks in itertools.islice(stream, count):
        loop.take(images, masks)


def _alone(
    stream: Iterator[tuple[Tensor, Tensor]], batch_size: int, plan: Plan, timer: Timer
) -> float:
    """Images a second that a loader makes when nothing is trained."""
    for _ in range(READ_AHEAD * DEVICE_WORKERS if plan.device == "cuda" else 1):
        next(stream)
    timer.wait()
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < plan.seconds:
        next(stream)
        images += batch_size
    timer.wait()
    return images / (time.perf_counter() - start)


def confusion(plan: Plan) -> list[Row]:
    """Milliseconds of a confusion matrix of one VOC photograph, from logits on the card.

    Counted by the processor after the prediction is fetched, and counted where the logits are, by
    us and by torchmetrics: these two leave the counts on the card, as an evaluation does that
    fetches them at its end.
    """
    device = torch.device(plan.device)
    generator = torch.Generator().manual_seed(0)
    height, width = plan.size[1], plan.size[0]
    logits = torch.randn(1, len(VOC_CLASSES), height, width, generator=generator).to(device)
    truth = random_batch(1, (height, width), len(VOC_CLASSES))[1]
    # Each side is given the type that it asks for, so that no conversion is timed.
    truth_there, classes = truth.to(device), len(VOC_CLASSES)
    truth_long = truth_there.long()

    def through_numpy() -> Any:
        return confusion_matrix(
            truth[0].numpy(), logits.argmax(1)[0].to(torch.uint8).cpu().numpy(), classes
        )

    def on_device() -> DeviceConfusion:
        counter = DeviceConfusion(classes)
        counter.add(truth_there, logits.argmax(1).to(torch.uint8))
        return counter

    def torchmetrics() -> Tensor:
        return multiclass_confusion_matrix(
            logits, truth_long, num_classes=classes, ignore_index=VOID
        )

    reference = "torchmetrics on the device"
    expected = torchmetrics().cpu().numpy()
    same = {
        "segops through the CPU": np.array_equal(through_numpy(), expected),
        "segops on the device": np.array_equal(on_device().fetch()[0], expected),
        reference: True,
    }
    ways: dict[str, Callable[[], Any]] = dict(
        zip(same, (through_numpy, on_device, torchmetrics), strict=True)
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    timer = Timer(device)
    for _, (name, way) in itertools.product(range(10 * plan.rounds), ways.items()):
        times[name].append(timer(way))
    return [
        {
            "way": name,
            "milliseconds": 1e3 * statistics.median(values),
            "ratio": statistics.median(
                a / b for a, b in zip(times[reference], values, strict=True)
            ),
            "same": same[name],
        }
        for name, values in times.items()
    ]
