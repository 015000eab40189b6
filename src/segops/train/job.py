"""The parameters, the input and the result of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segops.augment.policy import Policy
from segops.data.store import PackedStore
from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.hardware import HardwareParams
from segops.params.model import ModelParams
from segops.params.registry import RegistryParams
from segops.params.samples import CopyPasteParams, SampleParams
from segops.params.train import TrainParams
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import ModelSpec
from segops.train.checkpoint import Weights
from segops.train.history import TrainingLog
from segops.train.start import Start
from segops.train.teacher import Teacher


class TrainingSettings(Sections):
    """The sections of ``params.yaml`` that decide a training's result or its hardware."""

    data: DataParams = DataParams()
    augment: SampleParams = SampleParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    hardware: HardwareParams = HardwareParams()
    registry: RegistryParams = RegistryParams()


@dataclass(frozen=True)
class Job:
    """The input of a training.

    Attributes:
        params: Section `train` of ``params.yaml``, with `auto` of the precision resolved.
        encoder_weights: A published name, None, or the path of a local file.
        parts: Hashes of all that the training depends on, by name.
        resume: Directory of the checkpoints.
        auxiliary_weight: Weight of the auxiliary head's loss; 0: the network has no such head.
        class_weights: Weights of the classes in losses that support them, in id order.
        start: The trained model to start from, in place of `encoder_weights`.
        teacher: The model whose class probabilities are learned; on rank zero only.
        copy_paste: Settings of objects copied between train images; None: no copies.
        background: The class that is no object to copy; None: every class is one.
        augment_device: Device that augments batches, `cpu` or `gpu`.
        on_epoch: Called on rank zero with every epoch's row; its exception ends the training.
    """

    params: TrainParams
    hardware: HardwareParams
    spec: ModelSpec
    encoder_weights: str | None
    store: PackedStore
    policy: Policy
    parts: dict[str, str]
    resume: Path
    history: TrainingLog
    auxiliary_weight: float = 0.0
    class_weights: tuple[float, ...] | None = None
    start: Start | None = None
    teacher: Teacher | None = None
    copy_paste: CopyPasteParams | None = None
    background: int | None = None
    augment_device: str = "cpu"
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None


def on_images(job: Job) -> Job:
    """The training on images, of one on the kept features of a frozen encoder; others unchanged."""
    if job.params.frozen_views is None:
        return job
    changes = {"frozen_views": None, "freeze_encoder_epochs": job.params.epochs}
    return replace(job, params=job.params.model_copy(update=changes))


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        network: The network with the chosen weights, on the CPU.
        last: State dict after the last step, on the CPU; with a moving average, its state dict.
        rows: Learning curves: `epoch`, `step`, `lr`, `train_loss`, `selection_miou`, and those of
            :data:`segops.params.semi_supervised.CURVES` that the training has.
        best_epoch: The epoch of the chosen weights, from 1.
        selection_miou: The score of the chosen weights; None without a selection split.
        steps: Optimiser steps of the whole training, including those before a resume.
        images_per_second: Speed of the training steps of this process; 0 if it took no step.
        nondeterministic: Operations without a deterministic kernel, by torch's name.
    """

    network: Segmenter
    last: Weights
    rows: list[dict[str, Any]]
    best_epoch: int
    selection_miou: float | None
    steps: int
    images_per_second: float
    nondeterministic: tuple[str, ...] = ()
