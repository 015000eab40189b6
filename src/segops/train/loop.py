"""The training loop."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segops.augment.policy import Policy
from segops.data.datasets import TrainDataset, train_loader
from segops.data.samplers import EpochSampler
from segops.data.split import selection_split
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.models.losses import build_loss
from segops.models.segmenter import Segmenter
from segops.models.zoo import ModelSpec, build
from segops.params import HardwareParams, TrainParams
from segops.predict.predictor import Predictor
from segops.progress import track
from segops.train import checkpoint as checkpoints
from segops.train.checkpoint import Best, Checkpoint, Weights
from segops.train.hardware import (
    build_fabric,
    choose_layout,
    choose_threads,
    choose_workers,
    reproducible,
)
from segops.train.history import History
from segops.train.losslog import LossLog, Step, diverged
from segops.train.optimizers import build_optimizer
from segops.train.schedules import Plateau, Schedule
from segops.train.selection import selection_miou

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""Within an epoch; at its end a checkpoint is written whenever :data:`CHECKPOINT_SHARE` allows."""

CHECKPOINT_SHARE = 0.05
"""Writing checkpoints takes no more than this share of the time."""

log = logging.getLogger("segops")


@dataclass(frozen=True)
class Job:
    """All that a training needs.

    Attributes:
        params: Section `train` of ``params.yaml``.
        hardware: Section `hardware`.
        spec: The network.
        encoder_weights: `imagenet`, None, or the path of a local safetensors file.
        store: The images.
        policy: The augmentation.
        parts: Hashes of all that the training depends on, by name.
        resume: Directory of the checkpoint.
        history: Where every epoch is told.
    """

    params: TrainParams
    hardware: HardwareParams
    spec: ModelSpec
    encoder_weights: str | None
    store: PackedStore
    policy: Policy
    parts: dict[str, str]
    resume: Path
    history: History


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
        network: The network with the chosen weights, on the CPU.
        last: State dict after the last step, on the CPU.
        rows: Learning curves: `epoch`, `step`, `lr`, `train_loss`, `selection_miou`.
        best_epoch: The epoch whose weights were chosen, from 1.
        selection_miou: Their score; None without a selection split.
        steps: Optimiser steps of the whole training, those before a resume included.
        images_per_second: Speed of the training steps of this process; 0 if it took none.
    """

    network: Segmenter
    last: Weights
    rows: list[dict[str, Any]]
    best_epoch: int
    selection_miou: float | None
    steps: int
    images_per_second: float


def train(job: Job) -> Outcome:
    """Train from the start, or continue from the checkpoint in `job.resume`.

    Returns:
        The finished training; the checkpoint is left to the caller to remove.

    Raises:
        SegopsError: The network cannot be built, the device is not there or has too little memory,
            or the training diverged.
    """
    fabric, device, precision = build_fabric(job.params)
    threads = choose_threads(job.hardware)
    log.info("Training on %s in %s with %d threads.", device, precision, threads)
    with reproducible(device, threads):
        return _Training(job, fabric, choose_workers(job.hardware, device)).run()


class _Training:
    """A training under way. `epoch` and `batch` count what is done: epochs, steps of the next."""

    def __init__(self, job: Job, fabric: Any, workers: int) -> None:
        params = job.params
        self.job = job
        self.fabric = fabric
        ids, self.selection = selection_split(job.store.ids("train"), params.selection_share)
        if params.selection_share and not self.selection:
            raise SegopsError(
                f"train.selection_share: train holds {len(ids)} image(s), which leaves none to "
                "choose the checkpoint with. Set it to 0."
            )
        self.dataset = TrainDataset(job.store, ids, job.policy, params.seed)
        self.sampler = EpochSampler(len(ids), params.batch_size, params.seed)
        self.workers = workers
        self.schedule = Schedule.of(params, len(self.sampler))
        self.plateau = Plateau(params.step_factor, params.plateau_patience)
        self.loss = build_loss(params.loss)

        torch.manual_seed(params.seed)
        self.network = build(job.spec, job.encoder_weights)
        self.layout = choose_layout(params, self.network, fabric.device.type)
        self.network.to(fabric.device).to(memory_format=self.layout)
        self.model, self.optimizer = fabric.setup(
            self.network, build_optimizer(self.network.parameters(), params)
        )
        self.predictor = Predictor(self.network, job.store.class_names, fabric.device)
        self.losses = LossLog(fabric.device)
        self.rows: list[dict[str, Any]] = []
        self.best: Best | None = None
        self.epoch = self.batch = 0
        self.last_step: Step | None = None
        self.timer = _Timer()

    def run(self) -> Outcome:
        self._restore()
        self.job.history.start(self.epoch)
        loader = train_loader(
            self.dataset,
            self.sampler,
            self.job.params.epochs,
            start_epoch=self.epoch,
            start_batch=self.batch,
            workers=self.workers,
            pin_memory=self.fabric.device.type == "cuda",
        )
        batches = iter(loader)
        while self.epoch < self.job.params.epochs and not self._has_stalled():
            self._run_epoch(batches)
        return self._outcome()

    def _run_epoch(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        started = time.monotonic()
        label = f"epoch {self.epoch + 1} of {self.job.params.epochs}"
        left = len(self.sampler) - self.batch
        self.network.train()
        for images, masks in track(islice(batches, left), label, total=left):
            self._take_step(images, masks)
            if self.batch < len(self.sampler) and self.timer.is_due(SECONDS_BETWEEN_CHECKPOINTS):
                self._save()
        loss = self.losses.close()
        self._require_finite_weights()
        speed = left * self.job.params.batch_size / (time.monotonic() - started)
        self.epoch, self.batch = self.epoch + 1, 0
        self._end_epoch(loss, started, speed)
        if self.epoch < self.job.params.epochs and self.timer.is_due(0):
            self._save()

    def _take_step(self, images: Tensor, masks: Tensor) -> None:
        number = self.epoch * len(self.sampler) + self.batch
        rate = self.schedule.learning_rate(number, self.plateau.scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Whatever the network draws (dropout) is a function of the seed and the step: a resumed
        # training needs no random state.
        torch.manual_seed(_step_seed(self.job.params.seed, number))
        epoch, batch = self.epoch, self.batch
        step = Step(number + 1, epoch + 1, rate, lambda: self._image_ids(epoch, batch))
        try:
            images = self.fabric.to_device(images.contiguous(memory_format=self.layout))
            loss = self.loss(self.model(images), self.fabric.to_device(masks))
            self.fabric.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self.job.params.batch_size, images.shape) from error
        self.losses.add(loss, step)
        self.last_step = step
        self.batch += 1

    def _end_epoch(self, loss: float, started: float, speed: float) -> None:
        score = None
        if self.selection:
            score = selection_miou(self.predictor, self.job.store, self.selection)
            if self.job.params.schedule == "plateau":
                self.plateau.update(score)
            if self.best is None or score > self.best.score:
                weights = checkpoints.on_cpu(self.network.state_dict())
                self.best = Best(self.epoch, score, weights)
        rate = self.last_step.learning_rate if self.last_step else self.job.params.lr
        row = {
            "epoch": self.epoch,
            "step": self.epoch * len(self.sampler),
            "lr": rate,
            "train_loss": loss,
            "selection_miou": score,
        }
        self.rows.append(row)
        self.timer.add(speed)
        seconds = round(time.monotonic() - started, 3)
        self.job.history.epoch({**row, "seconds": seconds, "images_per_second": round(speed, 2)})
        log.info(
            "epoch %d of %d: loss %.4f%s, lr %.2g, %.1f images/s",
            self.epoch,
            self.job.params.epochs,
            loss,
            "" if score is None else f", selection mIoU {score:.3f}",
            rate,
            speed,
        )

    def _has_stalled(self) -> bool:
        patience = self.job.params.early_stopping_patience
        if patience is None or self.best is None or self.epoch - self.best.epoch < patience:
            return False
        log.info("No gain in %d epochs since epoch %d: stopping.", patience, self.best.epoch)
        return True

    def _require_finite_weights(self) -> None:
        # The last step of an epoch has no later loss to show what it did.
        state = self.network.state_dict().values()
        sums = [tensor.sum() for tensor in state if tensor.is_floating_point()]
        if self.last_step and not bool(torch.stack(sums).isfinite().all()):
            raise diverged("the weights are not finite", self.last_step)

    def _save(self) -> None:
        self.timer.begin_save()
        checkpoint = Checkpoint(
            parts=self.job.parts,
            epoch=self.epoch,
            batch=self.batch,
            losses=self.losses.state(),
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            plateau=self.plateau.state(),
            rows=self.rows,
            best=self.best,
        )
        checkpoints.save(self.job.resume, checkpoint)
        self.timer.end_save()

    def _restore(self) -> None:
        found = checkpoints.load(self.job.resume, self.job.parts)
        if found is None:
            return
        self.network.load_state_dict(found.network)
        self.optimizer.load_state_dict(found.optimizer)
        self.plateau.restore(found.plateau)
        self.losses.restore(found.losses)
        self.rows, self.best = found.rows, found.best
        self.epoch, self.batch = found.epoch, found.batch
        log.info("Continuing an interrupted training: %d epochs and %d of %d steps are done.",
                 self.epoch, self.batch, len(self.sampler))  # fmt: skip

    def _outcome(self) -> Outcome:
        last = checkpoints.on_cpu(self.network.state_dict())
        network = self.network.to("cpu")
        if self.best is not None:
            network.load_state_dict(self.best.weights)
        return Outcome(
            network=network,
            last=last,
            rows=self.rows,
            best_epoch=self.best.epoch if self.best else self.epoch,
            selection_miou=self.best.score if self.best else None,
            steps=self.epoch * len(self.sampler),
            images_per_second=self.timer.speed,
        )

    def _image_ids(self, epoch: int, batch: int) -> list[str]:
        keys = self.sampler.batch(epoch, batch)
        return [self.dataset.image_id(index) for _, index in keys]


class _Timer:
    """When to write a checkpoint, and how fast the training is."""

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._cost = 0.0
        self._begun = 0.0
        self._speeds: list[float] = []

    def is_due(self, least: float) -> bool:
        """Whether `least` seconds, and enough for the cost of writing, have passed."""
        return time.monotonic() - self._saved >= max(least, self._cost / CHECKPOINT_SHARE)

    def begin_save(self) -> None:
        self._begun = time.monotonic()

    def end_save(self) -> None:
        self._saved = time.monotonic()
        self._cost = self._saved - self._begun

    def add(self, speed: float) -> None:
        self._speeds.append(speed)

    @property
    def speed(self) -> float:
        """Median images per second over the epochs of this process; 0 if there was none."""
        ordered = sorted(self._speeds)
        return ordered[len(ordered) // 2] if ordered else 0.0


def _step_seed(seed: int, step: int) -> int:
    digest = hashlib.blake2b(f"step {seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _out_of_memory(batch_size: int, shape: Sequence[int]) -> SegopsError:
    if batch_size > 1:
        advice = f"Try train.batch_size: {batch_size // 2}."
    else:
        advice = "Try a smaller augment.crop or a smaller model.encoder."
    return SegopsError(
        f"The device ran out of memory with train.batch_size: {batch_size} and crops of "
        f"{shape[-2]} x {shape[-1]} pixels. {advice}"
    )
