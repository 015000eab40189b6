"""Sets up trial trainings: on one device, with their own files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from segops import files, paths
from segops.augment.policy import build_policy, written
from segops.data.store import PackedStore
from segops.edit import put
from segops.params.file import Params
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.stages.train import build_job
from segops.train.history import TrainingLog
from segops.train.job import Job, TrainingSettings


def on_one_device(settings: Params) -> Params:
    """Parameters for the same steps on one device, by gradient accumulation.

    Batch norm differs: its statistics are over a part of the batch.
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
    """The number of devices of a training, over all machines."""
    if train.devices != "auto":
        return train.devices * train.nodes
    gpus = torch.cuda.device_count() if train.device != "cpu" else 0
    return max(1, gpus) * train.nodes


def open_store(root: Path) -> PackedStore:
    """Open the packed images of a workspace.

    Raises:
        SegopsError: Nothing is packed, or there is no augmentation policy.
    """
    if not (root / paths.PACKED).is_dir() or not (root / paths.POLICY).is_file():
        raise SegopsError(
            f"{root}: no data are prepared for training. `dvc repro augment` prepares them."
        )
    return PackedStore(root / paths.PACKED)


@contextmanager
def scratch_directory(root: Path) -> Iterator[Path]:
    """A temporary directory in the workspace's state."""
    state = root / paths.STATE
    state.mkdir(parents=True, exist_ok=True)
    with files.scratch(state) as scratch:
        yield scratch


def build_trial(root: Path, settings: Params, store: PackedStore, scratch: Path) -> Job:
    """Build a training with its checkpoints and history in `scratch`.

    It uses the augmentation policy of `settings`, not the policy that stage augment wrote.

    Raises:
        SegopsError: Parameters and data do not fit together.
    """
    policy = build_policy(settings.augment, store.statistics.fill)
    serialised = written(policy, settings.augment, settings.data.drawn.background)
    job = build_job(root, TrainingSettings.of(settings), store, serialised)
    return replace(
        job,
        resume=scratch / "resume",
        history=TrainingLog(scratch / paths.HISTORY.name, job.history.fingerprint, settings.flat()),
    )
