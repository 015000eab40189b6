"""The pretraining of an encoder on images without masks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segops.augment.policy import sample_seed
from segops.data.datasets import TrainDataset, TrainSample, train_loader
from segops.data.samplers import BatchStream, EpochSampler
from segops.models.autoencoders import Autoencoder, build_autoencoder, encoder_weights
from segops.models.loading import KEY as WEIGHTS_KEY
from segops.models.pretrained import build_pretrained
from segops.params.hardware import HardwareParams
from segops.params.pretrain import PretrainParams
from segops.params.train import TrainParams
from segops.progress import track
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from segops.train import checkpoint as checkpoints
from segops.train.checkpoint import (
    CHECKPOINT_SHARE,
    SECONDS_BETWEEN_CHECKPOINTS,
    Checkpoint,
    Weights,
)
from segops.train.hardware import (
    build_fabric,
    choose_layout,
    choose_threads,
    choose_workers,
    reproducible,
)
from segops.train.losslog import FP16_TOLERATED, LOSS, LossLog, Step, diverged
from segops.train.optimizers import build_optimizer
from segops.train.schedules import Schedule

SHOWN = 8
"""Images whose restored crops are kept for the page."""
_STEP, _SHOWN = -2, -3
"""Of :func:`sample_seed`: the seeds of the steps, and of the images that are shown."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class PretrainJob:
    """The input of a pretraining.

    Attributes:
        params: Section `pretrain` of ``params.yaml``.
        train: What the loop of trainings takes, as :func:`loop_params` makes it.
        spec: The network whose encoder is pretrained.
        encoder_weights: What the encoder starts from: a published name, a file, or None.
        dataset: Makes the crops; its masks are 255 where a crop lies beyond its image.
        parts: Hashes of all that the pretraining depends on, by name.
        resume: Directory of the checkpoints.
    """

    params: PretrainParams
    train: TrainParams
    hardware: HardwareParams
    spec: ModelSpec
    encoder_weights: str | None
    dataset: TrainDataset
    parts: dict[str, str]
    resume: Path


class Restored(NamedTuple):
    """An image that the final network restored.

    Attributes:
        image_id: Its id.
        crop: A crop of it, uint8 (h, w, C), as are the following.
        seen: What the encoder saw of the crop.
        restored: What the network made of that.
    """

    image_id: str
    crop: NDArray[np.uint8]
    seen: NDArray[np.uint8]
    restored: NDArray[np.uint8]


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining.

    Attributes:
        weights: The encoder's, on the CPU, by the names that timm or torchvision give them.
        rows: For each epoch `epoch`, `step`, `lr` and `train_loss`.
        restored: At most `SHOWN` images, restored by the final network.
        method: The class of the autoencoder.
        precision: The precision that was used.
        nondeterministic: Operations without a deterministic kernel, by torch's name.
    """

    weights: Weights
    rows: list[dict[str, Any]]
    restored: list[Restored]
    method: str
    precision: str
    nondeterministic: tuple[str, ...] = ()


def loop_params(train: TrainParams, params: PretrainParams) -> TrainParams:
    """What the loop takes: numbers of section `pretrain`, the hardware of section `train`."""
    own = {
        "seed": params.seed,
        "epochs": params.epochs,
        "iterations": None,
        "batch_size": params.batch_size,
        "accumulate": 1,
        "optimizer": "adamw",
        "lr": params.lr,
        "min_lr": 0.0,
        "weight_decay": params.weight_decay,
        "schedule": "cosine",
        "warmup_epochs": params.warmup_epochs,
        "devices": 1,
        "nodes": 1,
    }
    return train.model_copy(update=own)


def pretrain(job: PretrainJob) -> Pretrained:
    """Pretrain from the start, or continue from the checkpoint in `job.resume`.

    The caller removes the checkpoint.

    Raises:
        SegopsError: The network cannot be built or has no encoder, the device is missing or has too
            little memory, an operation has no deterministic kernel, or the pretraining diverged.
    """
    fabric, device, precision = build_fabric(job.train)
    threads = choose_threads(job.hardware)
    log.info("Pretraining on %s in %s with %d threads.", device, precision, threads)
    with reproducible(device, threads, job.train.deterministic) as operations:
        found = _Pretraining(job, fabric, precision, choose_workers(job.hardware, device)).run()
    return replace(found, nondeterministic=tuple(sorted(operations)))


@dataclass
class _Pretraining:
    """A pretraining; `epoch` counts completed epochs, `batch` completed steps of the next one."""

    job: PretrainJob
    fabric: Any
    precision: str
    workers: int
    epoch: int = 0
    batch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)
    save_cost: float = 0.0
    last_step: Step | None = None

    def __post_init__(self) -> None:
        job, fabric = self.job, self.fabric
        torch.manual_seed(job.params.seed)
        with _own_remedies():
            segmenter = build_pretrained(job.spec, job.encoder_weights)
        self.network: Autoencoder = build_autoencoder(segmenter, job.spec.architecture, job.params)
        layout = choose_layout(job.train, self.network, fabric.device.type)
        self.network.to(fabric.device).to(memory_format=layout).train()
        self.optimizer: Any = fabric.setup_optimizers(
            build_optimizer(self.network.parameters(), job.train)
        )
        self.model: Any = fabric.setup_module(self.network)
        self.sampler = EpochSampler(len(job.dataset), job.params.batch_size, job.params.seed)
        with _own_remedies():
            self.schedule = Schedule.of(job.train, len(self.sampler))
        self.scaler: Any = getattr(fabric.strategy.precision, "scaler", None)
        tolerated = 0 if self.scaler is None else FP16_TOLERATED
        self.losses = LossLog(fabric.device, tolerated=tolerated)

    def run(self) -> Pretrained:
        self._restore()
        batches = BatchStream(self.sampler, self.job.params.epochs, self.epoch, self.batch)
        is_cuda = self.fabric.device.type == "cuda"
        stream = iter(
            train_loader(self.job.dataset, batches, workers=self.workers, pin_memory=is_cuda)
        )
        while self.epoch < self.job.params.epochs:
            self._run_epoch(stream)
        self._require_finite()
        restored = self._shown()
        return Pretrained(
            weights=encoder_weights(self.network.encoder),
            rows=self.rows,
            restored=restored,
            method=type(self.network).__name__,
            precision=self.precision,
        )

    def _run_epoch(self, batches: Iterator[TrainSample]) -> None:
        started, epochs = time.monotonic(), self.job.params.epochs
        left = len(self.sampler) - self.batch
        label = f"epoch {self.epoch + 1} of {epochs}"
        for images, masks in track(islice(batches, left), label, left):
            self._take_step(images, masks)
            if self._is_due(SECONDS_BETWEEN_CHECKPOINTS):
                self._save()
        with _own_remedies():
            loss = self.losses.close()[LOSS]
        self.epoch, self.batch = self.epoch + 1, 0
        step = self.epoch * len(self.sampler)
        rate = self.schedule.learning_rate(step - 1)
        self.rows.append({"epoch": self.epoch, "step": step, "lr": rate, LOSS: loss})
        speed = left * self.job.params.batch_size / (time.monotonic() - started)
        log.info("%s: loss %.4f, lr %.2g, %.1f images/s", label, loss, rate, speed)
        if self.epoch < epochs and self._is_due(0):
            self._save()

    def _take_step(self, images: Tensor, masks: Tensor) -> None:
        number = self.epoch * len(self.sampler) + self.batch
        rate = self.schedule.learning_rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # What is hidden, noise and dropout are functions of the seed and the step, so that a
        # resumed pretraining needs no random state.
        self._seed(sample_seed(self.job.params.seed, number, _STEP))
        hidden = self.network.draw(len(images))
        try:
            loss = self.model(*map(self.fabric.to_device, (images, masks != VOID, hidden)))
            self.fabric.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        except torch.OutOfMemoryError as error:
            size = self.job.params.batch_size
            raise SegopsError(
                f"The device ran out of memory with pretrain.batch_size: {size}. Try "
                f"{max(1, size // 2)}, or a smaller pretrain.crop."
            ) from error
        epoch, batch = self.epoch, self.batch
        self.last_step = Step(number + 1, epoch + 1, rate, lambda: self._image_ids(epoch, batch))
        with _own_remedies():
            self.losses.add(loss, self.last_step)
        self.batch += 1

    def _require_finite(self) -> None:
        # No loss shows the effect of the last step.
        sums = [one.detach().sum() for one in self.network.parameters()]
        if self.last_step is not None and not bool(torch.stack(sums).isfinite().all()):
            with _own_remedies():
                raise diverged("the weights are not finite", self.last_step)

    def _image_ids(self, epoch: int, batch: int) -> list[str]:
        keys = self.sampler.batch(epoch, batch)
        return [self.job.dataset.image_id(index) for _, index in keys]

    def _seed(self, seed: int) -> None:
        # `torch.manual_seed` seeds every kind of device that torch supports, which takes 0.6 ms.
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _is_due(self, least: float) -> bool:
        return time.monotonic() - self.saved_at >= max(least, self.save_cost / CHECKPOINT_SHARE)

    def _save(self) -> None:
        started = time.monotonic()
        engine = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        checkpoints.save(
            self.job.resume,
            Checkpoint(
                parts=self.job.parts,
                epoch=self.epoch,
                batch=self.batch,
                engine=engine,
                plateau={},
                losses=[self.losses.state()],
                rows=list(self.rows),
            ),
        )
        self.saved_at = time.monotonic()
        self.save_cost = self.saved_at - started

    def _restore(self) -> None:
        loaded = checkpoints.load(self.job.resume, self.job.parts)
        if loaded is None:
            return
        checkpoint = loaded[0]
        self.network.load_state_dict(checkpoint.engine["network"])
        self.optimizer.load_state_dict(checkpoint.engine["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(checkpoint.engine["scaler"])
        self.losses.restore(checkpoint.losses[0])
        self.rows = list(checkpoint.rows)
        self.epoch, self.batch = checkpoint.epoch, checkpoint.batch
        log.info("Continuing an interrupted pretraining: %d epochs and %d of %d steps are done.",
                 self.epoch, self.batch, len(self.sampler))  # fmt: skip

    def _shown(self) -> list[Restored]:
        """The first images as the final network restores them, one at a time."""
        self.network.eval()
        found = []
        for index in range(min(SHOWN, len(self.job.dataset))):
            image, _ = self.job.dataset[0, index]
            self._seed(sample_seed(self.job.params.seed, index, _SHOWN))
            hidden = self.fabric.to_device(self.network.draw(1))
            with torch.no_grad(), self.fabric.autocast():
                normalised = self.network.normalised(self.fabric.to_device(image[None]))
                pictures = normalised, *self.network.restore(normalised, hidden)
            shown = (self.network.pixels(one)[0].permute(1, 2, 0).cpu().numpy() for one in pictures)
            found.append(Restored(self.job.dataset.image_id(index), *shown))
        return found


@contextmanager
def _own_remedies() -> Iterator[None]:
    """Name the parameters of section `pretrain` in an error that names those of others."""
    try:
        yield
    except SegopsError as error:
        words = str(error)
        for name in ("lr", "warmup_epochs", "epochs"):
            words = words.replace(f"train.{name}", f"pretrain.{name}")
        words = words.replace(WEIGHTS_KEY, "pretrain.encoder_weights")
        raise SegopsError(words.replace(" and their masks", "")) from None
