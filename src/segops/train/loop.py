"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from segops.data.datasets import TrainDataset, TrainSample
from segops.data.samplers import EpochSampler
from segops.data.selection_split import selection_split
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.predictor import Predictor
from segops.train import checkpoint as checkpoints
from segops.train.batches import batches_of, build_dataset, build_sampler
from segops.train.checkpoint import Best, Checkpoint
from segops.train.engine import Engine, result_of, without_auxiliary
from segops.train.fingerprint import START
from segops.train.hardware import build_fabric, choose_threads, choose_workers, reproducible
from segops.train.job import Job, TrainingResult
from segops.train.losslog import FP16_TOLERATED, LossLog, Step, diverged
from segops.train.ranks import (
    gathered,
    leave,
    mean,
    require_equal,
    share_statistics,
)
from segops.train.schedules import Plateau, Schedule
from segops.train.selection import selection_miou, warn_of_absent_classes

__all__ = ["Job", "TrainingResult", "train"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""Within an epoch; at its end only :data:`CHECKPOINT_SHARE` limits how often one is written."""

CHECKPOINT_SHARE = 0.05
"""Largest share of the time spent on writing checkpoints."""

STEPS_BETWEEN_LOOKS = 50
"""Steps after which several ranks learn from rank zero whether to write a checkpoint."""

log = logging.getLogger("segops")


def train(job: Job) -> TrainingResult:
    """Train from the start, or continue from the checkpoint in `job.resume`.

    With several devices this process is one rank; only rank zero writes files and logs.

    Returns:
        The finished training. The caller removes the checkpoint.

    Raises:
        SegopsError: The network cannot be built, the device is missing or has too little memory, an
            operation has no deterministic kernel, or the training diverged.
    """
    fabric, device, precision = build_fabric(job.params)
    threads = choose_threads(job.hardware)
    ranks = f"{fabric.world_size} devices, each " if fabric.world_size > 1 else ""
    if fabric.is_global_zero:
        log.info("Training on %s%s in %s with %d threads.", ranks, device, precision, threads)
    with reproducible(device, threads, job.params.deterministic) as operations:
        result = _Training(job, fabric, choose_workers(job.hardware, device)).run()
    leave(fabric)
    return replace(result, nondeterministic=tuple(sorted(operations)))


class _Training:
    """A training. `epoch` counts completed epochs, `batch` completed steps of the next epoch."""

    def __init__(self, job: Job, fabric: Any, workers: int) -> None:
        params = job.params
        self.job = job
        self.fabric = fabric
        self.is_first = fabric.global_rank == 0
        ids, self.selection = selection_split(job.store.ids("train"), params.selection_share)
        if params.selection_share and not self.selection:
            raise SegopsError(
                f"train.selection_share: train holds {len(ids)} image(s), which leaves none to "
                "choose the checkpoint with. Set it to 0."
            )
        if self.is_first and self.selection:
            warn_of_absent_classes(job.store, ids, self.selection)
        require_equal({name: part for name, part in job.parts.items() if name != START}, fabric)
        self.dataset: TrainDataset = build_dataset(job, ids)
        self.sampler: EpochSampler = build_sampler(job, ids)
        self.workers = workers
        self.schedule = Schedule.of(params, len(self.sampler))
        self.steps = self.schedule.total_steps
        self.epochs = -(-self.steps // len(self.sampler))
        self.plateau = Plateau(params.step_factor, params.plateau_patience)
        self.engine = Engine(job, fabric)
        self.predictor = Predictor(self.engine.result, job.store.class_names, fabric.device)
        tolerated = 0 if self.engine.scale is None else FP16_TOLERATED
        self.losses = LossLog(fabric.device, tolerated=tolerated)
        self.rows: list[dict[str, Any]] = []
        self.best: Best | None = None
        self.epoch = self.batch = 0
        self.last_step: Step | None = None
        self.timer = _Timer()

    def run(self) -> TrainingResult:
        self._restore()
        if self.is_first:
            self.job.history.start(self.epoch)
        stream = batches_of(
            self.job, self.fabric, self.dataset, self.sampler, self.steps,
            (self.epoch, self.batch), self.workers,
        )  # fmt: skip
        batches = iter(stream)
        while self.epoch < self.epochs and not self._has_stalled():
            self._run_epoch(batches)
        return self._result()

    def _run_epoch(self, batches: Iterator[TrainSample]) -> None:
        started = time.monotonic()
        length = min(len(self.sampler), self.steps - self._done)
        left = length - self.batch
        self.engine.freeze_encoder(self.epoch < self.job.params.freeze_encoder_epochs)
        self.engine.train_mode()
        for images, masks in self._shown(islice(batches, left), left):
            self._take_step(images, masks)
            if self.batch < length and self._is_save_due():
                self._save()
        loss = mean(self.losses.close(), self.fabric)
        self._require_finite()
        speed = left * self.job.params.batch_size / (time.monotonic() - started)
        self.epoch, self.batch = self.epoch + 1, 0
        self._end_epoch(loss, started, speed)
        if self.epoch < self.epochs and self.fabric.broadcast(self.timer.is_due(0)):
            self._save()

    @property
    def _done(self) -> int:
        """Steps of the completed epochs."""
        return min(self.epoch * len(self.sampler), self.steps)

    def _shown(self, batches: Iterable[TrainSample], count: int) -> Iterable[TrainSample]:
        if not self.is_first:
            return batches
        return track(batches, f"epoch {self.epoch + 1} of {self.epochs}", total=count)

    def _take_step(self, images: Tensor, masks: Tensor) -> None:
        number = self._done + self.batch
        rate = self.schedule.learning_rate(number, self.plateau.scale)
        epoch, batch = self.epoch, self.batch
        step = Step(number + 1, epoch + 1, rate, lambda: self._image_ids(epoch, batch))
        self.losses.add(self.engine.step(images, masks, number, rate), step)
        self.last_step = step
        self.batch += 1

    def _end_epoch(self, loss: float, started: float, speed: float) -> None:
        score = self._score() if self.selection else None
        rate = self.last_step.learning_rate if self.last_step else self.job.params.lr
        row = {
            "epoch": self.epoch,
            "step": self._done,
            "lr": rate,
            "train_loss": loss,
            "selection_miou": score,
        }
        self.rows.append(row)
        self._note_best(score)
        self.timer.add(speed)
        seconds = round(time.monotonic() - started, 3)
        if self.is_first:
            self._report({**row, "seconds": seconds, "images_per_second": round(speed, 2)})

    def _score(self) -> float:
        share_statistics(self.engine.result, self.fabric)
        return selection_miou(self.predictor, self.job.store, self.selection, self.fabric)

    def _note_best(self, score: float | None) -> None:
        if score is None:
            return
        if self.job.params.schedule == "plateau":
            self.plateau.update(score)
        if self.best is None or score > self.best.score:
            self.best = Best(self.epoch, score)
            if self.is_first:
                losses = [self.losses.state()] * self.fabric.world_size  # equal after `close`
                self.best.checkpoint = self._checkpoint(losses).copied()

    def _report(self, row: dict[str, Any]) -> None:
        self.job.history.epoch(row)
        score = row["selection_miou"]
        log.info(
            "epoch %d of %d: loss %.4f%s, lr %.2g, %.1f images/s",
            self.epoch,
            self.epochs,
            row["train_loss"],
            "" if score is None else f", selection mIoU {score:.3f}",
            row["lr"],
            row["images_per_second"],
        )
        if self.job.on_epoch is not None:
            self.job.on_epoch(row)

    def _has_stalled(self) -> bool:
        patience = self.job.params.early_stopping_patience
        if patience is None or self.best is None or self.epoch - self.best.epoch < patience:
            return False
        if self.is_first:
            log.info("No gain in %d epochs since epoch %d: stopping.", patience, self.best.epoch)
        return True

    def _require_finite(self) -> None:
        # No later loss of the epoch shows the effect of its last step.
        state = self.engine.network.state_dict().values()
        sums = [tensor.sum() for tensor in state if tensor.is_floating_point()]
        if self.last_step is None:
            return
        if not bool(torch.stack(sums).isfinite().all()):
            raise diverged("the weights are not finite", self.last_step)
        scale = self.engine.scale
        if scale is not None and scale < 2.0**-FP16_TOLERATED:
            raise diverged("every gradient overflows in fp16, so no step is taken", self.last_step)

    def _is_save_due(self) -> bool:
        if self.fabric.world_size == 1:
            return self.timer.is_due(SECONDS_BETWEEN_CHECKPOINTS)
        if self.batch % STEPS_BETWEEN_LOOKS:
            return False
        return bool(self.fabric.broadcast(self.timer.is_due(SECONDS_BETWEEN_CHECKPOINTS)))

    def _save(self) -> None:
        losses = gathered(self.losses.state(), self.fabric)
        if self.is_first:
            self.timer.begin_save()
            checkpoints.save(self.job.resume, self._checkpoint(losses), self.best)
            self.timer.end_save()

    def _checkpoint(self, losses: list[dict[str, float]]) -> Checkpoint:
        return Checkpoint(
            parts=self.job.parts,
            epoch=self.epoch,
            batch=self.batch,
            engine=self.engine.state(),
            plateau=self.plateau.state(),
            losses=losses,
            rows=list(self.rows),
            best_epoch=None if self.best is None else self.best.epoch,
            best_score=None if self.best is None else self.best.score,
        )

    def _restore(self) -> None:
        loaded = checkpoints.load(self.job.resume, self.job.parts) if self.is_first else None
        checkpoint = self.fabric.broadcast(loaded[0] if loaded else None)
        if checkpoint is None:
            return
        self.engine.restore(checkpoint.engine)
        self.plateau.restore(checkpoint.plateau)
        self.losses.restore(checkpoint.losses[self.fabric.global_rank])
        self.rows = list(checkpoint.rows)
        self.epoch, self.batch = checkpoint.epoch, checkpoint.batch
        if loaded:
            self.best = loaded[1]
            log.info("Continuing an interrupted training: %d epochs and %d of %d steps are done.",
                     self.epoch, self.batch, len(self.sampler))  # fmt: skip
        elif checkpoint.best_epoch is not None:  # rank zero has its weights
            self.best = Best(checkpoint.best_epoch, checkpoint.best_score)

    def _result(self) -> TrainingResult:
        network = self.engine.result
        last = without_auxiliary(checkpoints.on_cpu(network.state_dict()))
        network.to("cpu")
        if self.best is not None and self.best.checkpoint is not None:
            network.load_state_dict(result_of(self.best.checkpoint.engine))
        network.auxiliary = None
        return TrainingResult(
            network=network,
            last=last,
            rows=self.rows,
            best_epoch=self.best.epoch if self.best else self.epoch,
            selection_miou=self.best.score if self.best else None,
            steps=self._done,
            images_per_second=self.timer.speed,
        )

    def _image_ids(self, epoch: int, batch: int) -> list[str]:
        """The images of this rank's part of a batch."""
        keys = self.sampler.batch(epoch, batch)
        count = len(keys) // self.fabric.world_size
        own = keys[self.fabric.global_rank * count :][:count]
        return [self.dataset.image_id(index) for _, index in own]


class _Timer:
    """Decides when to write a checkpoint, and measures the speed of the training."""

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._cost = 0.0
        self._begun = 0.0
        self._speeds: list[float] = []

    def is_due(self, least: float) -> bool:
        """Whether `least` seconds have passed and :data:`CHECKPOINT_SHARE` allows to write."""
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
        """Median images per second over the epochs of this process; 0 without an epoch."""
        ordered = sorted(self._speeds)
        return ordered[len(ordered) // 2] if ordered else 0.0
