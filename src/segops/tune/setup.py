"""Trainings that only try something: on one device, with files of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from segops import paths
from segops.augment.policy import build_policy
from segops.data.store import PackedStore
from segops.edit import put
from segops.params.file import Params
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.stages.train import build_job
from segops.train.history import TrainingLog
from segops.train.job import Job
from segops.train.settings import TrainingSettings


def on_one_device(settings: Params) -> Params:
    """Parameters of the same steps on one device, which takes the others' shares as further parts.

    What differs is batch norm, whose statistics are over a part.
    """
    devices = device_count(settings.train)
    if devices == 1 and settings.train.devices == 1:
        return settings
    alone = {
        "train.devices": 1,
        "train.nodes": 1,
        "train.sync_batch_norm": False,
        "train.accumulate": settings.train.accumulate * devices,
    }
    return put(settings, alone, "params.yaml on one device")


def device_count(train: TrainParams) -> int:
    """Devices of a training, over all machines."""
    if train.devices != "auto":
        return train.devices * train.nodes
    gpus = torch.cuda.device_count() if train.device != "cpu" else 0
    return max(1, gpus) * train.nodes


def open_store(root: Path) -> PackedStore:
    """The packed images of a workspace.

    Raises:
        SegopsError: There are none yet.
    """
    if not (root / paths.PACKED).is_dir() or not (root / paths.POLICY).is_file():
        raise SegopsError(
            f"{root}: nothing is prepared for training yet. `dvc repro augment` does it."
        )
    return PackedStore(root / paths.PACKED)


def build_trial(root: Path, settings: Params, store: PackedStore, scratch: Path) -> Job:
    """A training whose checkpoints and history lie in `scratch`.

    It uses the policy of `settings`, whatever policy the stage augment wrote last.

    Raises:
        SegopsError: Parameters and data do not fit together.
    """
    job = build_job(root, TrainingSettings.of(settings), store)
    return replace(
        job,
        policy=build_policy(settings.augment),
        resume=scratch / "resume",
        history=TrainingLog(scratch / paths.HISTORY.name, job.history.fingerprint, settings.flat()),
    )
