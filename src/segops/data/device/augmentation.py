"""Augmentation of whole batches: workers fetch pixels and draw, the training's device computes.

Workers draw the policy's parameters with its own code and seeds, so a crop, its flip, scale and
colours are those of augmentation on the CPU, sample by sample; noise has the same distribution but
other values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from segops.augment.geometry import Affine, Pixels, Warp, Window
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
    kinds = [type(transform) for transform in policy.compose.transforms[1:]]
    cpu_only = [kind.__name__ for kind in kinds if kind not in batch_color.BATCH_TRANSFORMS]
    if wanted == "gpu":
        if cpu_only:
            raise SegopsError(
                f"augment.device: gpu, but {', '.join(cpu_only)} of the policy acts on the CPU "
                "alone. Set augment.device to cpu or auto, or the probability of this part to 0."
            )
        if device != "cuda":
            log.warning(
                "augment.device: gpu, but the training runs on %s: batches are augmented there, "
                "slower than with augment.device: cpu.",
                device,
            )
        return "gpu"
    return "gpu" if wanted == "auto" and device == "cuda" and not cpu_only else "cpu"


class RawSample(NamedTuple):
    """The parts of image and mask that a crop shows, the maps from crop to each, the crop's window.

    `drawn` is what was drawn of each transform after the warp; None: it does not act.
    """

    image: Pixels
    to_image: Affine
    mask: Pixels
    to_mask: Affine
    window: Window
    drawn: tuple[Drawn | None, ...]
    seed: int


class RawBatch(NamedTuple):
    """What a worker hands over: tensors that can be pinned and sent to the device.

    `windows` is int64 (N, 4). `colors` is what was drawn of each transform after the warp; None: it
    acts on no sample.
    """

    images: Sources
    masks: Sources
    windows: Tensor
    colors: list[batch_color.Encoded | None]


class BatchAugmentation:
    """The samples of a data set, augmented in whole batches with the draws of its policy.

    :func:`choose_executor` has checked that each transform has a version for batches.
    """

    def __init__(self, dataset: TrainDataset) -> None:
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

        On CUDA nothing waits for the device if the batch lies in page-locked memory.

        Returns:
            Images, uint8 (N, C, h, w) in channels-last memory, and masks, uint8 (N, h, w), on
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
    nor of `workers`, the number of processes that fetch pixels and draw (0: this one does).
    """
    augment = BatchAugmentation(dataset)
    on_gpu = device.type == "cuda"
    loader = stream_loader(augment, batches, augment.pack, workers=workers, pin_memory=on_gpu)
    return (augment(raw, device) for raw in loader)


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
