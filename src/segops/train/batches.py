"""The batches of a training: their images, their order and the device that augments them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from segops.data.copy_paste import CopyPaste
from segops.data.datasets import TrainDataset, TrainSample, train_loader
from segops.data.device.augmentation import device_batches
from segops.data.imbalance import RareFirst
from segops.data.samplers import BatchStream, EpochSampler
from segops.train.job import Job


def build_dataset(job: Job, ids: Sequence[str]) -> TrainDataset:
    """The samples of a job's training images `ids`."""
    pasted = None if job.copy_paste is None else CopyPaste.of(job.store, ids, job.copy_paste)
    return TrainDataset(job.store, ids, job.policy, job.params.seed, pasted)


def build_sampler(job: Job, ids: Sequence[str]) -> EpochSampler:
    """The order in which a job sees its training images `ids`."""
    rare_first = RareFirst.of(job.store, ids) if job.params.sampling == "rare_first" else None
    return EpochSampler(len(ids), job.params.batch_size, job.params.seed, rare_first)


def batches_of(
    job: Job,
    fabric: Any,
    dataset: TrainDataset,
    sampler: EpochSampler,
    steps: int,
    start: tuple[int, int],
    workers: int,
) -> Iterable[TrainSample]:
    """This rank's part of every batch from `start`, (epoch, batch), to the end of the training.

    Args:
        job: The training.
        fabric: Device and ranks.
        dataset: The samples.
        sampler: The order of the samples.
        steps: Batches of the whole training.
        start: Epoch and number of the first batch.
        workers: Processes that make samples.

    Returns:
        Batches of images uint8 (N, 3, h, w) and masks uint8 (N, h, w).
    """
    batches = BatchStream(
        sampler,
        -(-steps // len(sampler)),
        *start,
        total_steps=steps,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    if job.augment_device == "gpu":
        return device_batches(dataset, batches, device=fabric.device, workers=workers)
    is_cuda = fabric.device.type == "cuda"
    return train_loader(dataset, batches, workers=workers, pin_memory=is_cuda)
