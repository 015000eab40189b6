"""The batches of a training, augmented on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from segops.data.datasets import TrainDataset, TrainSample
from segops.data.device.augmentation import BatchAugmentation, RawBatch, RawDataset
from segops.data.samplers import BatchStream
from segops.data.workers import stream_loader


class DeviceLoader:
    """The batches that :func:`~segops.data.datasets.train_loader` makes, augmented on a device.

    A sample is a function of (seed, epoch, index) and of the kind of device: neither of its batch
    nor of `workers`. On a GPU each batch is copied and augmented on a separate stream while the
    step before it trains, one batch ahead; no call waits for the device.

    Args:
        dataset: The samples.
        batches: The keys of every batch.
        device: Where batches are augmented, and stay.
        workers: Processes that fetch pixels and draw; 0: this one.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """

    def __init__(
        self,
        dataset: TrainDataset,
        batches: BatchStream,
        *,
        device: torch.device | str,
        workers: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.augment = BatchAugmentation(dataset.policy)
        self.loader = stream_loader(
            RawDataset(dataset),
            batches,
            self.augment.pack,
            workers=workers,
            pin_memory=self.device.type == "cuda",
        )

    def __len__(self) -> int:
        """Batches in one iteration."""
        return len(self.loader)

    def __iter__(self) -> Iterator[TrainSample]:
        """Hand out (images uint8 (N, 3, h, w) channels-last, masks uint8 (N, h, w))."""
        if self.device.type == "cuda":
            yield from self._ahead()
        else:
            for raw in self.loader:
                yield self.augment(raw, self.device)

    def _ahead(self) -> Iterator[TrainSample]:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        waiting: tuple[TrainSample, torch.cuda.Event] | None = None
        for raw in self.loader:
            following = self._begin(raw, stream)
            if waiting is not None:
                yield self._hand_over(*waiting)
            waiting = following
        if waiting is not None:
            yield self._hand_over(*waiting)

    def _begin(
        self, raw: RawBatch, stream: torch.cuda.Stream
    ) -> tuple[TrainSample, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            batch = self.augment(raw, self.device)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        return batch, done

    def _hand_over(self, batch: TrainSample, done: torch.cuda.Event) -> TrainSample:
        """Make the caller's stream wait for `batch`, whose memory it then shares."""
        caller = torch.cuda.current_stream(self.device)
        caller.wait_event(done)
        for tensor in batch:
            tensor.record_stream(caller)
        return batch
