"""Augmented training samples, and the loader that makes batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from segops.augment.geometry import Pixels
from segops.augment.policy import Policy, sample_seed
from segops.augment.views import Views
from segops.data.copy_paste import CopyPaste
from segops.data.samplers import BatchStream, SampleKey
from segops.data.store import PackedStore
from segops.data.workers import shared_batches, stream_loader

TrainSample = tuple[Tensor, Tensor]
"""Image or batch of images, and mask or batch of masks."""


@dataclass(eq=False)
class TrainDataset(Dataset[TrainSample]):
    """Crops of the images `ids`; sample (epoch, index) is a function of (seed, epoch, index) alone.

    `copy_paste` puts objects into the images before the policy sees them.
    """

    store: PackedStore
    ids: Sequence[str]
    policy: Policy
    seed: int
    copy_paste: CopyPaste | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a sample, in pixels."""
        return self.policy.crop

    @property
    def channels(self) -> int:
        """Channels of a sample's image."""
        return self.store.channels

    def image_id(self, index: int) -> str:
        """The image that `index` stands for; see :class:`~segops.data.samplers.EpochSampler`."""
        return self.ids[index % len(self.ids)]

    def source(self, key: SampleKey) -> tuple[Pixels, Pixels, int]:
        """What the policy gets for sample `key`, (epoch, index).

        Returns:
            Image, uint8 (H, W, C), and mask, uint8 (H, W), as stored or with pasted objects, both
            possibly read-only; and the sample's seed.
        """
        epoch, index = key
        image_id = self.image_id(index)
        seed = sample_seed(self.seed, epoch, index)
        if self.copy_paste is not None:
            return *self.copy_paste(image_id, seed), seed
        return self.store.image(image_id), self.store.mask(image_id), seed

    def __getitem__(self, key: SampleKey) -> TrainSample:
        """Make the sample of `key`, (epoch, index).

        Returns:
            Image, uint8 (C, h, w), and mask, uint8 (h, w) with 255 for void, of the policy's
            crop size. The network normalises, on its device.
        """
        image, mask = self.policy(*self.source(key))
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)


class CropDataset(TrainDataset):
    """Crops of images without masks; the mask of a crop is 0 where it shows its image, else 255."""

    def source(self, key: SampleKey) -> tuple[Pixels, Pixels, int]:
        """As of the base class, with a mask of zeros."""
        epoch, index = key
        image: Pixels = self.store.image(self.image_id(index))
        blank = np.zeros(image.shape[:2], np.uint8)
        return image, blank, sample_seed(self.seed, epoch, index)


@dataclass(eq=False)
class UnlabelledDataset(Dataset[TrainSample]):
    """Views of the images `ids`, which need no masks.

    Sample (epoch, index) is a function of (seed, epoch, index) alone.
    """

    store: PackedStore
    ids: Sequence[str]
    views: Views
    seed: int

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a sample, in pixels."""
        return self.views.crop

    @property
    def channels(self) -> int:
        """Channels of a sample's image: those of each view behind each other."""
        return self.store.channels * (1 + self.views.strong)

    def __getitem__(self, key: SampleKey) -> TrainSample:
        """Make the sample of `key`, (epoch, index).

        Returns:
            Views, uint8 (C or 2 C, h, w), and padding, uint8 (h, w), as :class:`Views` says.
        """
        epoch, index = key
        image = self.store.image(self.ids[index % len(self.ids)])
        views, padding = self.views(image, sample_seed(self.seed, epoch, index))
        return torch.from_numpy(views).permute(2, 0, 1), torch.from_numpy(padding)


def train_loader(
    dataset: TrainDataset | UnlabelledDataset,
    batches: BatchStream,
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterable[TrainSample]:
    """The batches of a training.

    Workers start once and read ahead over the border of an epoch. The batches do not depend on
    `workers`, and torch's global generator is not used.

    Args:
        dataset: Makes the samples.
        batches: The keys of every batch.
        workers: Processes that make samples; 0: this one, when a batch is asked for.
        pin_memory: Put batches in page-locked memory, for a GPU.

    Returns:
        Pairs of images, uint8 (N, C, h, w) in channels-last memory, and masks, uint8 (N, h, w).
    """
    if workers == 0:
        return stream_loader(dataset, batches, _collate, workers=0, pin_memory=pin_memory)
    shape = batches.batch_size, *dataset.crop
    return shared_batches(
        dataset,
        batches,
        shape,
        workers=workers,
        pin_memory=pin_memory,
        channels=dataset.channels,
    )


def _collate(samples: list[TrainSample]) -> TrainSample:
    # Stacked as (N, h, w, C), as they lie in memory; viewed as (N, C, h, w) that is channels-last.
    images = default_collate([image.permute(1, 2, 0) for image, _ in samples])
    masks = default_collate([mask for _, mask in samples])
    return images.permute(0, 3, 1, 2), masks
