"""The augmentation policy's second executor: whole batches, on the device that trains.

Workers fetch pixels from the packed store and draw the policy's parameters, with the CPU executor's
own code and seeds; the device does the work. A crop, its flip, scale and colours are thus those of
the CPU executor, sample by sample; noise has the same distribution but other values.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from segops.data.datasets import Sample, TrainDataset
from segops.data.device.batches import BatchAugmentation, RawBatch, RawDataset
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.workers import stream_loader


class DeviceLoader:
    """Batches that are augmented on a device, in the order and number of a raw loader's.

    On a GPU each batch is copied and augmented on a stream of its own while the step before it
    trains, one batch ahead; no call waits for the device.

    Args:
        dataset: The samples.
        batches: The keys of every batch.
        device: Where batches are augmented, and stay.
        workers: Processes that fetch and draw; 0: this one.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """

    def __init__(
        self, dataset: TrainDataset, batches: BatchStream, device: torch.device, workers: int
    ) -> None:
        self.device = device
        self.augment = BatchAugmentation(dataset.policy)
        self.loader = stream_loader(
            RawDataset(dataset),
            batches,
            self.augment.pack,
            workers=workers,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        """Batches in one iteration."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Sample]:
        """Hand out (images uint8 (N, 3, h, w) channels-last, masks uint8 (N, h, w))."""
        if self.device.type == "cuda":
            yield from self._ahead()
        else:
            for raw in self.loader:
                yield self.augment(raw, self.device)

    def _ahead(self) -> Iterator[Sample]:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        waiting: tuple[Sample, torch.cuda.Event] | None = None
        for raw in self.loader:
            following = self._begin(raw, stream)
            if waiting is not None:
                yield self._taken_over(*waiting)
            waiting = following
        if waiting is not None:
            yield self._taken_over(*waiting)

    def _begin(self, raw: RawBatch, stream: torch.cuda.Stream) -> tuple[Sample, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            batch = self.augment(raw, self.device)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        return batch, done

    def _taken_over(self, batch: Sample, done: torch.cuda.Event) -> Sample:
        """Make the caller's stream wait for `batch`, whose memory it then shares."""
        caller = torch.cuda.current_stream(self.device)
        caller.wait_event(done)
        for tensor in batch:
            tensor.record_stream(caller)
        return batch


def device_loader(
    dataset: TrainDataset,
    sampler: EpochSampler,
    epochs: int,
    *,
    device: torch.device | str,
    start_epoch: int = 0,
    start_batch: int = 0,
    total_steps: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> DeviceLoader:
    """The batches of a training, augmented on `device`; as :func:`train_loader` otherwise.

    Order, length, resuming and what is drawn are those of
    :func:`~segops.data.datasets.train_loader`. A sample is a function of (seed, epoch, index) and
    of the kind of device: neither of its batch nor of `workers`.

    Args:
        dataset: The samples.
        sampler: Draws the order; of the same length as `dataset`.
        epochs: Epochs in all.
        device: Where batches are augmented, and stay.
        start_epoch: Where to begin.
        start_batch: Where to begin in that epoch.
        total_steps: Batches of the whole training; None: all of `epochs`.
        rank: Which part of every batch to make; see :class:`~segops.data.samplers.BatchStream`.
        ranks: Into how many parts batches are divided.
        workers: Processes that fetch pixels and draw; 0: this one.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """
    batches = BatchStream(
        sampler, epochs, start_epoch, start_batch, total_steps=total_steps, rank=rank, ranks=ranks
    )
    return DeviceLoader(dataset, batches, torch.device(device), workers)
