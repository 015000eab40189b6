"""What the benchmarks of training share: a job on generated images, and the step that is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segops.augment.policy import build_policy
from segops.data.imbalance import class_weights
from segops.data.packing import pack
from segops.data.selection_split import selection_split
from segops.data.store import PackedStore
from segops.params.file import Params, load_params
from segops.progress import track
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.networks.zoo import ModelSpec
from segops.train.engine import Engine
from segops.train.history import TrainingLog
from segops.train.job import Job
from segops.train.losslog import LossLog, Step
from segops.train.schedules import Plateau, Schedule
from segops.voc.layout import open_layout
from tools.sample import generate

REPOSITORY = Path(__file__).resolve().parents[1]
EPOCH = 1000
"""Steps that count as an epoch where none ends."""


def settings_of(**changes: Any) -> Params:
    """The parameters of the repository's ``params.yaml`` with some of section `train` changed."""
    settings = load_params(REPOSITORY)
    train = type(settings.train).model_validate(settings.train.model_dump() | changes)
    return settings.model_copy(update={"train": train})


def generated_store(directory: Path, count: int, size: tuple[int, int] = (160, 128)) -> PackedStore:
    """A packed store of `count` generated train images; `size` is width and height."""
    generate(directory / "voc", train=count, val=1, seed=0, size=size)
    pack(open_layout(directory / "voc"), directory / "packed", VOC_CLASSES, workers=2)
    return PackedStore(directory / "packed")


def job_of(settings: Params, store: PackedStore, directory: Path) -> Job:
    """A training of `settings` on `store`; what it writes goes to `directory`."""
    model, augment = settings.model, settings.augment
    spec = ModelSpec(
        model.architecture,
        model.encoder,
        len(VOC_CLASSES),
        model.options,
        output_stride=model.output_stride,
        dropout=model.dropout,
    )
    ids, _ = selection_split(store.ids("train"), settings.train.selection_share)
    return Job(
        params=settings.train,
        hardware=settings.hardware,
        spec=spec,
        encoder_weights=model.encoder_weights,
        store=store,
        policy=build_policy(augment),
        parts={},
        resume=directory / "resume",
        history=TrainingLog(directory / "history.jsonl", "benchmark", {}),
        auxiliary_weight=model.auxiliary_weight,
        class_weights=class_weights(store, ids, settings.train.class_weights),
        copy_paste=augment.copy_paste if augment.copy_paste.p else None,
        background=settings.data.drawn.background,
    )


def random_batch(size: int, crop: tuple[int, int], classes: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, 3, h, w) channels-last, and masks, uint8 (N, h, w), a tenth void."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *crop, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, classes, (size, *crop), dtype=torch.uint8, generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = VOID
    return images.permute(0, 3, 1, 2), masks


class LoopStep:
    """A step as the training loop takes it: schedule, engine, loss log.

    Args:
        job: What is trained.
        engine: Its engine.
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self.engine = engine
        self.schedule = Schedule.of(job.params, EPOCH)
        self.plateau = Plateau(job.params.step_factor, job.params.plateau_patience)
        self.losses = LossLog(engine.fabric.device)
        self.number = 0
        engine.train_mode()

    def __call__(self, images: Tensor, masks: Tensor) -> None:
        """Take one."""
        number = self.number % self.schedule.total_steps
        rate = self.schedule.learning_rate(number, self.plateau.scale)
        step = Step(number + 1, 1 + number // EPOCH, rate, lambda: [])
        self.losses.add(self.engine.step(images, masks, number, rate), step)
        self.number += 1

    def over(self, batches: Iterable[tuple[Tensor, Tensor]], count: int) -> None:
        """Take a step with each of `count` batches, showing progress as the loop does."""
        for images, masks in track(batches, "benchmark", total=count):
            self(images, masks)


@dataclass(frozen=True)
class Timer:
    """Times what runs on a device, and waits for it."""

    device: torch.device

    def __call__(self, work: Callable[[], object]) -> float:
        """Seconds that `work` takes until the device is done."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def matmul_peak(device: torch.device, side: int, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product: the median of several, after a warm-up."""
    timer = Timer(device)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [timer(lambda: left @ right) for _ in range(20)]
    return 2 * side**3 / statistics.median(times[5:])


def step_flops(network: nn.Module, shape: tuple[int, int, int, int]) -> float:
    """Operations of the products and convolutions of a forward and a backward pass.

    Three times those of the forward pass: torch's counter takes the backward pass of a grouped
    convolution for one without groups, up to 20 times too many.

    Args:
        network: A network on the device "meta".
        shape: Of its images: (N, 3, h, w).
    """
    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.empty(shape, device="meta"))
    return 3.0 * counter.get_total_flops()


def repeated(batch: tuple[Tensor, Tensor], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batch over and over."""
    for _ in range(count):
        yield batch
