"""The order in which training sees the images: drawn from (seed, epoch), resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.augment.policy import sample_seed
from segops.data.imbalance import RareFirst

SampleKey = tuple[int, int]
"""(epoch, index), from which :class:`~segops.data.datasets.TrainDataset` makes a sample."""


class EpochSampler:
    """The batches of every epoch, all of `batch_size`.

    An epoch is a shuffled pass over the images. Its last images that fill no batch are left out: a
    short batch would give its images more weight, changing shapes cost determinism and speed, and a
    batch of one image breaks batch normalisation. Where there are fewer images than a batch holds,
    the pass wraps around: an index of ``length`` or more means the image ``index % length`` again,
    with a different augmentation. With rare-class sampling each image is drawn independently.

    Args:
        length: Number of images, 1 or more.
        batch_size: Images in a batch, 1 or more.
        seed: Seed of the order.
        rare_first: Rare-class sampling; None: a shuffled pass.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rare_first: RareFirst | None = None
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"expected 1 image or more, got {length}, batch size {batch_size}")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rare_first = rare_first

    def __len__(self) -> int:
        """Batches in an epoch, 1 or more."""
        return max(1, self.length // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Indices in the order of `epoch`, (batches * batch_size,), each at most once."""
        generator = np.random.Generator(np.random.PCG64(sample_seed(self.seed, epoch, -1)))
        used = len(self) * self.batch_size
        if self.rare_first is not None:
            drawn = self.rare_first.draw(generator, used)
            times_before = pd.Series(drawn).groupby(drawn).cumcount().to_numpy()
            return drawn + times_before * self.length
        passes = -(-used // self.length)
        rounds = [generator.permutation(self.length) + k * self.length for k in range(passes)]
        return np.concatenate(rounds)[:used].astype(np.int64)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[SampleKey]]:
        """The batches of `epoch`, from number `start` on."""
        order = self.order(epoch).reshape(len(self), self.batch_size)
        for indices in order[start:]:
            yield [(epoch, index) for index in indices.tolist()]

    def batch(self, epoch: int, number: int) -> list[SampleKey]:
        """A single batch."""
        return next(self.batches(epoch, number))


class BatchStream:
    """The batches of many epochs in one stream, so that workers never wait between epochs.

    Several ranks share each batch: rank r takes the r-th of `ranks` equal, contiguous parts, so
    that together they see the images that a single rank would see, in the same order.

    Args:
        sampler: Draws the order.
        epochs: Epochs in all.
        start_epoch: The epoch of the first batch.
        start_batch: The number of the first batch in that epoch.
        total_steps: Batches of the whole training, which may end within an epoch; None: all of
            `epochs`.
        rank: Number of the part of each batch that is handed out.
        ranks: Number of parts; a divisor of the sampler's batch size.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        epochs: int,
        start_epoch: int = 0,
        start_batch: int = 0,
        *,
        total_steps: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.sampler = sampler
        self.epochs = epochs
        self.start_epoch = start_epoch
        self.start_batch = start_batch
        self.total_steps = epochs * len(sampler) if total_steps is None else total_steps
        self.batch_size = sampler.batch_size // ranks
        self._part = slice(rank * self.batch_size, (rank + 1) * self.batch_size)

    def __len__(self) -> int:
        """Batches that remain."""
        done = self.start_epoch * len(self.sampler) + self.start_batch
        return max(0, self.total_steps - done)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Hand out batches of (epoch, index)."""
        return islice(self._all(), len(self))

    def _all(self) -> Iterator[list[SampleKey]]:
        for epoch in range(self.start_epoch, self.epochs):
            start = self.start_batch if epoch == self.start_epoch else 0
            for keys in self.sampler.batches(epoch, start):
                yield keys[self._part]
