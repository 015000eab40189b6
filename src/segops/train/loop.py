"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from statistics import median_high
from typing import Any

import torch
from torch import Tensor

from segops.data.copy_paste import CopyPaste
from segops.data.datasets import TrainDataset, TrainSample, train_loader
from segops.data.device.augmentation import device_batches
from segops.data.imbalance import RareFirst
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.selection_split import selection_split
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.torch_predictor import TorchPredictor
from segops.train import checkpoint as checkpoints
from segops.train.checkpoint import (
    CHECKPOINT_SHARE,
    SECONDS_BETWEEN_CHECKPOINTS,
    Best,
    Checkpoint,
)
from segops.train.engine import Engine, result_of, without_auxiliary
from segops.train.features import Features
from segops.train.fingerprint import OF_FIRST_RANK
from segops.train.hardware import build_fabric, choose_threads, choose_workers, reproducible
from segops.train.job import Job, TrainingResult
from segops.train.losslog import FP16_TOLERATED, LossLog, Step, diverged
from segops.train.ranks import gathered, leave, require_equal, share_statistics
from segops.train.schedules import Plateau, Schedule
from segops.train.selection import selection_miou, warn_of_absent_classes
from segops.train.unlabelled import unlabelled_batches, unlabelled_ids

STEPS_BETWEEN_LOOKS = 50
"""Steps after which several ranks learn from rank zero whether to write a checkpoint."""

log = logging.getLogger("segops")


def train(job: Job) -> TrainingResult:
    """Train from the start, or continue from the checkpoint in `job.resume`.

    With several devices this process is a rank; only rank zero writes files and logs. The caller
    removes the checkpoint.

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
        everywhere = job.parts.keys() - OF_FIRST_RANK
        require_equal({name: job.parts[name] for name in everywhere}, fabric)
        self.dataset, self.sampler = build_samples(job, ids)
        self.workers = workers
        self.schedule = Schedule.of(params, len(self.sampler))
        self.steps = self.schedule.total_steps
        self.epochs = -(-self.steps // len(self.sampler))
        self.plateau = Plateau(params.step_factor, params.plateau_patience)
        self.engine = Engine(job, fabric)
        self.features = Features.of(job, fabric, self.engine.network, self.dataset, self.selection)
        self.predictor = TorchPredictor(
            self.engine.result, job.store.class_names, fabric.device, channels=job.spec.channels
        )
        tolerated = 0 if self.engine.scale is None else FP16_TOLERATED
        self.losses = LossLog(fabric.device, tolerated=tolerated)
        self.rows: list[dict[str, Any]] = []
        self.best: Best | None = None
        self.epoch = self.batch = 0
        self.last_step: Step | None = None
        self.unlabelled: Iterator[TrainSample | None] = repeat(None)
        self.saved_at, self.save_cost = time.monotonic(), 0.0
        self.speeds: list[float] = []

    def run(self) -> TrainingResult:
        self._restore()
        if self.is_first:
            self.job.history.start(self.epoch)
        workers = self.workers
        if unlabelled_ids(self.job):
            workers = -(-workers // 2)  # for each of the two streams
        done = self._done + self.batch
        self.unlabelled = unlabelled_batches(self.job, self.fabric, self.steps, done, workers)
        stream = batches_of(
            self.job, self.fabric, self.dataset, self.sampler, self.steps,
            (self.epoch, self.batch), workers, self.features,
        )  # fmt: skip
        batches = iter(stream)
        while self.epoch < self.epochs and not self._has_stalled():
            self._run_epoch(batches)
        return self._result()

    def _run_epoch(self, batches: Iterator[TrainSample]) -> None:
        started = time.monotonic()
        length = min(len(self.sampler), self.steps - self._done)
        left = length - self.batch
        self.engine.freeze_encoder(
            self.features is not None or self.epoch < self.job.params.freeze_encoder_epochs
        )
        self.engine.train_mode()
        for images, masks in self._shown(islice(batches, left), left):
            self._take_step(images, masks)
            if self.batch < length and self._is_save_due():
                self._save()
        losses = self.losses.close()
        own = torch.tensor([*losses.values()], dtype=torch.float64)
        means = self.fabric.all_reduce(own, reduce_op="mean").tolist()
        self._require_finite()
        speed = left * self.job.params.batch_size / (time.monotonic() - started)
        self.epoch, self.batch = self.epoch + 1, 0
        self._end_epoch(dict(zip(losses, means, strict=True)), started, speed)
        if self.epoch < self.epochs and self.fabric.broadcast(self._has_passed(0)):
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
        loss = self.engine.step(
            images, masks, number, rate, next(self.unlabelled), self.schedule.ramp_up(number),
            progress=number / self.steps,
        )  # fmt: skip
        self.losses.add(loss, step, self.engine.figures)
        self.last_step = step
        self.batch += 1

    def _end_epoch(self, losses: dict[str, float], started: float, speed: float) -> None:
        score = self._score() if self.selection else None
        rate = self.last_step.learning_rate if self.last_step else self.job.params.lr
        row = {
            "epoch": self.epoch,
            "step": self._done,
            "lr": rate,
            **losses,
            "selection_miou": score,
        }
        self.rows.append(row)
        self._note_best(score)
        self.speeds.append(speed)
        seconds = round(time.monotonic() - started, 3)
        if self.is_first:
            self._report({**row, "seconds": seconds, "images_per_second": round(speed, 2)})

    def _score(self) -> float:
        share_statistics(self.engine.result, self.fabric)
        kept = None if self.features is None else self.features.selection
        return selection_miou(self.predictor, self.job.store, self.selection, self.fabric, kept)

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
        network = self.engine.network
        changed = [one for one in network.parameters() if one.requires_grad]
        tensors = (*changed, *network.buffers())
        sums = [one.detach().sum() for one in tensors if one.is_floating_point()]
        if self.last_step is None:
            return
        if not bool(torch.stack(sums).isfinite().all()):
            raise diverged("the weights are not finite", self.last_step)
        scale = self.engine.scale
        if scale is not None and scale < 2.0**-FP16_TOLERATED:
            raise diverged("every gradient overflows in fp16, so no step is taken", self.last_step)

    def _is_save_due(self) -> bool:
        if self.fabric.world_size > 1 and self.batch % STEPS_BETWEEN_LOOKS:
            return False
        return bool(self.fabric.broadcast(self._has_passed(SECONDS_BETWEEN_CHECKPOINTS)))

    def _has_passed(self, least: float) -> bool:
        """Whether `least` seconds have passed and :data:`CHECKPOINT_SHARE` allows to write."""
        waited = time.monotonic() - self.saved_at
        return waited >= max(least, self.save_cost / CHECKPOINT_SHARE)

    def _save(self) -> None:
        losses = gathered(self.losses.state(), self.fabric)
        if self.is_first:
            started = time.monotonic()
            checkpoints.save(self.job.resume, self._checkpoint(losses), self.best)
            self.saved_at = time.monotonic()
            self.save_cost = self.saved_at - started

    def _checkpoint(self, losses: list[dict[str, float]]) -> Checkpoint:
        return Checkpoint(
            parts=self.job.parts,
            epoch=self.epoch,
            batch=self.batch,
            engine=self.engine.state(),
            plateau=self.plateau.state(),
            losses=losses,
            rows=list(self.rows),
            best=None if self.best is None else (self.best.epoch, self.best.score),
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
        elif checkpoint.best is not None:  # rank zero has its weights
            self.best = Best(*checkpoint.best)

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
            images_per_second=median_high(self.speeds or [0.0]),
        )

    def _image_ids(self, epoch: int, batch: int) -> list[str]:
        """The images of this rank's part of a batch."""
        keys = self.sampler.batch(epoch, batch)
        count = len(keys) // self.fabric.world_size
        own = keys[self.fabric.global_rank * count :][:count]
        return [self.dataset.image_id(index) for _, index in own]


def build_samples(job: Job, ids: Sequence[str]) -> tuple[TrainDataset, EpochSampler]:
    """The samples of a job's training images `ids`, and the order in which it sees them."""
    seed = job.params.seed
    pasted = None
    if job.copy_paste is not None:
        pasted = CopyPaste.of(job.store, ids, job.copy_paste, job.background)
    rare_first = RareFirst.of(job.store, ids) if job.params.sampling == "rare_first" else None
    return (
        TrainDataset(job.store, ids, job.policy, seed, pasted),
        EpochSampler(len(ids), job.params.batch_size, seed, rare_first),
    )


def batches_of(
    job: Job,
    fabric: Any,
    dataset: TrainDataset,
    sampler: EpochSampler,
    steps: int,
    start: tuple[int, int],
    workers: int,
    features: Features | None = None,
) -> Iterable[TrainSample]:
    """This rank's part of every batch from `start`, (epoch, batch), to the last of `steps`.

    The batches are pairs of images uint8 (N, 3, h, w) and masks uint8 (N, h, w), made by `workers`
    processes; or, of a frozen encoder, of its `features` and masks.
    """
    batches = BatchStream(
        sampler,
        -(-steps // len(sampler)),
        *start,
        total_steps=steps,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    if features is not None:
        return features.batches(batches, pin_memory=fabric.device.type == "cuda")
    if job.augment_device == "gpu":
        return device_batches(dataset, batches, device=fabric.device, workers=workers)
    is_cuda = fabric.device.type == "cuda"
    return train_loader(dataset, batches, workers=workers, pin_memory=is_cuda)
