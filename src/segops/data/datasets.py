"""Augmented training samples, and the loader that makes batches of them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from segops.augment.policy import Policy, sample_seed
from segops.data.samplers import BatchStream, EpochSampler, SampleKey
from segops.data.store import PackedStore

Sample = tuple[Tensor, Tensor]
"""Image or batch of images, and mask or batch of masks."""

ALLOCATOR_KEEPS = 24 << 20
"""Bytes; glibc's own limit for what it keeps is 32 MiB."""


class TrainDataset(Dataset[Sample]):
    """Crops for training; sample (epoch, index) is a function of (seed, epoch, index) alone.

    Args:
        store: Holds the images.
        ids: Which of them to train on; `index` counts in this order.
        policy: The augmentation.
        seed: Seed of the augmentation.
    """

    def __init__(self, store: PackedStore, ids: Sequence[str], policy: Policy, seed: int) -> None:
        self.store = store
        self.ids = tuple(ids)
        self.policy = policy
        self.seed = seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def image_id(self, index: int) -> str:
        """The image that `index` stands for; see :class:`~segops.data.samplers.EpochSampler`."""
        return self.ids[index % len(self.ids)]

    def __getitem__(self, key: SampleKey) -> Sample:
        """Make a sample.

        Args:
            key: (epoch, index).

        Returns:
            Image, uint8 (3, h, w), RGB, and mask, uint8 (h, w) with 255 for void, of the policy's
            crop size. Normalisation is the network's, on its device.
        """
        epoch, index = key
        image_id = self.image_id(index)
        image, mask = self.policy(
            self.store.image(image_id),
            self.store.mask(image_id),
            sample_seed(self.seed, epoch, index),
        )
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)


def train_loader(
    dataset: TrainDataset,
    sampler: EpochSampler,
    epochs: int,
    *,
    start_epoch: int = 0,
    start_batch: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """The batches of a training, in one stream over all epochs.

    One iteration hands out every batch from (`start_epoch`, `start_batch`) to the end of epoch
    ``epochs - 1``, so that workers start once and read ahead over the border of an epoch. What it
    hands out does not depend on `workers`, nor does it draw from torch's global generator.

    Args:
        dataset: Makes the samples.
        sampler: Draws the order; of the same length as `dataset`.
        epochs: Epochs in all.
        start_epoch: Where to begin.
        start_batch: Where to begin in that epoch.
        workers: Processes that make samples; 0: this one, when a batch is asked for.
        pin_memory: Put batches in page-locked memory, for a GPU.

    Returns:
        A loader of (images uint8 (N, 3, h, w) in channels-last memory, masks uint8 (N, h, w)).
    """
    return DataLoader(
        dataset,
        batch_sampler=BatchStream(sampler, epochs, start_epoch, start_batch),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # Without one of its own, a loader draws a seed from the generator that training saves.
        generator=torch.Generator(),
        # A fork starts at once and shares all that is loaded; it is safe here because workers run
        # on one thread, touch no GPU and leave the parent's threads and files alone.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )


def _collate(samples: list[Sample]) -> Sample:
    # Stacked as they lie in memory, (N, h, w, 3), which seen as (N, 3, h, w) is channels-last.
    images = default_collate([image.permute(1, 2, 0) for image, _ in samples])
    masks = default_collate([mask for _, mask in samples])
    return images.permute(0, 3, 1, 2), masks


def _start_worker(_: int) -> None:
    # What the parent has left to collect is not the worker's to finalise: it could be an earlier
    # loader, whose end would be told to the wrong processes.
    gc.freeze()
    # Every worker has one core; OpenCV's own threads would only contend for it.
    cv2.setNumThreads(0)
    # glibc keeps freed blocks of up to the largest size it has seen freed. Without this it returns
    # the pages of every crop to the system and takes new ones, a third of the time of a sample.
    np.empty(ALLOCATOR_KEEPS, dtype=np.uint8)
