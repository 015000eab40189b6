"""The batches of images without masks, one for each step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import repeat
from typing import Any

from segops.augment.policy import sample_seed
from segops.augment.views import Views
from segops.data.datasets import TrainSample, UnlabelledDataset, train_loader
from segops.data.samplers import BatchStream, EpochSampler
from segops.runtime.errors import SegopsError
from segops.train.job import Job
from segops.voc.layout import UNLABELLED

log = logging.getLogger("segops")


def unlabelled_ids(job: Job) -> tuple[str, ...]:
    """The images without masks that a training learns from; none where it does not.

    Raises:
        SegopsError: A mean teacher is asked for, and there are no such images.
    """
    if not job.params.learns_unlabelled:
        return ()
    ids = job.store.ids(UNLABELLED)
    if job.params.mean_teacher.weight and not ids:
        raise SegopsError(
            "train.mean_teacher: the packed data hold no images without masks. Set data.unlabelled "
            "to the name of their list and `dvc repro prepare`, or train.mean_teacher.weight to 0."
        )
    return ids


def unlabelled_seed(seed: int) -> int:
    """The seed of all that is drawn for images without masks, from ``train.seed``."""
    return sample_seed(seed, -1, -1)


def unlabelled_batches(
    job: Job, fabric: Any, steps: int, done: int, workers: int
) -> Iterator[TrainSample | None]:
    """This rank's part of the batch of every step from `done` to the last of `steps`.

    The batch of a step is a function of the seed and of the step, as many images as those with
    masks. The passes over these images are not those over train.

    Returns:
        Views and padding as of :class:`~segops.data.datasets.UnlabelledDataset`, batched; None at
        every step where a training learns from no such images.

    Raises:
        SegopsError: As :func:`unlabelled_ids`.
    """
    ids = unlabelled_ids(job)
    if not ids:
        return repeat(None)
    params = job.params
    alone = params.batch_size == params.accumulate * fabric.world_size
    if params.mean_teacher.weight and alone and fabric.is_global_zero:
        log.warning(
            "train.mean_teacher: a device takes one image at a time, so that no view is mixed with "
            "another (CutMix), without which the method gains little. Raise train.batch_size or "
            "lower train.accumulate."
        )
    seed = unlabelled_seed(params.seed)
    views = Views(job.policy, strong=params.mean_teacher.weight > 0)
    sampler = EpochSampler(len(ids), params.batch_size, seed)
    batches = BatchStream(
        sampler,
        -(-steps // len(sampler)),
        *divmod(done, len(sampler)),
        total_steps=steps,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    dataset = UnlabelledDataset(job.store, ids, views, seed)
    is_cuda = fabric.device.type == "cuda"
    return iter(train_loader(dataset, batches, workers=workers, pin_memory=is_cuda))
