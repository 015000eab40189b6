"""Augmentation of whole batches: workers fetch pixels and draw, the training's device computes.

Workers draw the policy's parameters with its own code and seeds, so a crop, its flip, scale and
colours are those of augmentation on the CPU, sample by sample; noise has the same distribution but
other values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segops.augment.geometry import Affine, Warp, Window
from segops.augment.policy import Drawn, Policy
from segops.data.datasets import TrainDataset, TrainSample
from segops.data.device import batch_color
from segops.data.device.warp import Sources, bilinear, framed, nearest
from segops.data.samplers import BatchStream, SampleKey
from segops.data.workers import stream_loader
from segops.runtime.errors import SegopsError

Executor = Literal["cpu", "gpu"]

log = logging.getLogger("segops")


def choose_executor(wanted: str, device: str, policy: Policy) -> Executor:
    """Where batches are augmented: `cpu` or `gpu`.

    Args:
        wanted: ``augment.device``. `auto` is `gpu` where the training runs on a GPU and every part
            of the policy has a version for batches, else `cpu`. With `gpu` on a CPU batches are
            augmented there, for tests and for trying a recipe; that is slower than `cpu`.
        device: Kind of the training's device.
        policy: The augmentation.

    Raises:
        SegopsError: `wanted` is `gpu`, and a part of the policy has no version for batches.
    """
    if wanted == "gpu":
        _require_batch_versions(policy)
        if device != "cuda":
            log.warning(
                "augment.device: gpu, but the training runs on %s: batches are augmented there, "
                "slower than with augment.device: cpu.",
                device,
            )
        return "gpu"
    return "gpu" if wanted == "auto" and device == "cuda" and not _cpu_only(policy) else "cpu"


def _cpu_only(policy: Policy) -> list[str]:
    """Names of the policy's transforms that have no version for batches."""
    kinds = [type(transform) for transform in policy.compose.transforms[1:]]
    return [kind.__name__ for kind in kinds if kind not in batch_color.BATCH_TRANSFORMS]


def _require_batch_versions(policy: Policy) -> None:
    if missing := _cpu_only(policy):
        raise SegopsError(
            f"augment.device: gpu, but {', '.join(missing)} of the policy acts on the CPU "
            "alone. Set augment.device to cpu or auto, or the probability of this part to 0."
        )


class RawSample(NamedTuple):
    """A sample before augmentation.

    Attributes:
        image: The part of the stored image that the crop shows, uint8 (h, w, 3).
        to_image: The map from crop to `image`.
        mask: The part of the mask, uint8 (h, w).
        to_mask: The map from crop to `mask`.
        window: The part of the crop beyond which is padding.
        drawn: What was drawn of each transform after the warp; None: it does not act.
        seed: The sample's seed.
    """

    image: NDArray[np.uint8]
    to_image: Affine
    mask: NDArray[np.uint8]
    to_mask: Affine
    window: Window
    drawn: tuple[Drawn | None, ...]
    seed: int


class RawBatch(NamedTuple):
    """What a worker hands over: tensors that can be pinned and sent to the device.

    Attributes:
        images: Parts of images, and the maps to crops.
        masks: Parts of masks.
        windows: int64 (N, 4): the window of each sample.
        colors: What was drawn of each transform after the warp; None: it acts on no sample.
    """

    images: Sources
    masks: Sources
    windows: Tensor
    colors: list[batch_color.Encoded | None]


class BatchAugmentation:
    """The samples of a data set, augmented in whole batches with the draws of :class:`Policy`.

    Args:
        dataset: The samples.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """

    def __init__(self, dataset: TrainDataset) -> None:
        _require_batch_versions(dataset.policy)
        self.dataset = dataset
        self.warp: Warp = dataset.policy.compose.transforms[0]
        self.kinds = [type(transform) for transform in dataset.policy.compose.transforms[1:]]

    def __getitem__(self, key: SampleKey) -> RawSample:
        """Fetch and draw the sample of `key`, (epoch, index)."""
        image, mask, seed = self.dataset.source(key)
        geometry, *colors = self.dataset.policy.draw(image, mask, seed)
        assert geometry is not None  # the policy's warp always acts
        to_source, window = geometry["to_source"], geometry["window"]
        return RawSample(
            *self.warp.shown(image, to_source, window, geometry["scale"]),
            *self.warp.shown_mask(mask, to_source, window),
            window,
            tuple(colors),
            seed,
        )

    def pack(self, samples: Sequence[RawSample]) -> RawBatch:
        """Put samples into a few tensors, in the process that fetched them."""
        images, image_maps, masks, mask_maps, windows, drawn, seeds = zip(*samples, strict=True)
        return RawBatch(
            framed(images, image_maps, self.warp.fill),
            framed(masks, mask_maps, self.warp.fill_mask),
            torch.tensor(windows),
            [
                batch_color.encode(kind, [row[number] for row in drawn], seeds)
                for number, kind in enumerate(self.kinds)
            ],
        )

    def __call__(self, batch: RawBatch, device: torch.device) -> TrainSample:
        """Send a batch to `device` and augment it there.

        Args:
            batch: What :meth:`pack` made; on CUDA it should lie in page-locked memory, else the
                host waits for each copy.
            device: Where to compute.

        Returns:
            Images, uint8 (N, 3, h, w) in channels-last memory, and masks, uint8 (N, h, w), on
            `device`.
        """
        batch = _sent(batch, device)
        images = bilinear(batch.images, batch.windows, self.warp.size)
        masks = nearest(batch.masks, batch.windows, self.warp.size)
        for kind, encoded in zip(self.kinds, batch.colors, strict=True):
            if encoded is not None:
                images = batch_color.apply(kind, images, masks, encoded)
        return images.permute(0, 3, 1, 2), masks


def device_batches(
    dataset: TrainDataset, batches: BatchStream, *, device: torch.device, workers: int = 0
) -> Iterator[TrainSample]:
    """The batches of :func:`~segops.data.datasets.train_loader`, augmented on a device.

    A sample is a function of (seed, epoch, index) and of the kind of device: neither of its batch
    nor of `workers`.

    Args:
        dataset: The samples.
        batches: The keys of every batch.
        device: Where batches are augmented, and stay.
        workers: Processes that fetch pixels and draw; 0: this one.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """
    augment = BatchAugmentation(dataset)
    on_gpu = device.type == "cuda"
    loader = stream_loader(augment, batches, augment.pack, workers=workers, pin_memory=on_gpu)
    return _ahead(augment, loader, device) if on_gpu else (augment(raw, device) for raw in loader)


def _ahead(
    augment: BatchAugmentation, loader: Iterable[RawBatch], device: torch.device
) -> Iterator[TrainSample]:
    """Copy and augment each batch on a separate stream while the step before it trains.

    No call waits for the device.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: tuple[TrainSample, torch.cuda.Event] | None = None
    for raw in chain(loader, (None,)):
        following = None
        if raw is not None:
            with torch.cuda.stream(stream):
                following = augment(raw, device), torch.cuda.Event()  # type: ignore[no-untyped-call]
                following[1].record(stream)
        if ready is not None:
            batch, done = ready
            # The caller's stream waits for the batch, whose memory it then shares.
            caller = torch.cuda.current_stream(device)
            caller.wait_event(done)
            for tensor in batch:
                tensor.record_stream(caller)
            yield batch
        ready = following


def _sent(content: Any, device: torch.device) -> Any:
    """`content` with each tensor in it on `device`; on CUDA the copies are not waited for."""
    if isinstance(content, Tensor):
        return content.to(device, non_blocking=True)
    if isinstance(content, dict):
        return {name: _sent(value, device) for name, value in content.items()}
    if isinstance(content, list):
        return [_sent(value, device) for value in content]
    if isinstance(content, tuple):
        return type(content)(*(_sent(value, device) for value in content))
    return content
