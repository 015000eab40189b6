"""Augmentation of whole batches: workers fetch pixels and draw, the training's device computes.

Workers draw the policy's parameters with its own code and seeds, so a crop, its flip, scale and
colours are those of augmentation on the CPU, sample by sample; noise has the same distribution but
other values.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segops.augment.geometry import Warp
from segops.augment.policy import Drawn, Policy
from segops.data.datasets import TrainDataset
from segops.data.device import batch_color
from segops.data.device.warp import WarpBatch, WarpSample, fetch_parts, pack_parts, warp_batch
from segops.data.samplers import SampleKey
from segops.runtime.errors import SegopsError

Executor = Literal["cpu", "gpu"]

log = logging.getLogger("segops")


def choose_executor(wanted: str, device: torch.device | str, policy: Policy) -> Executor:
    """Where batches are augmented: `cpu` or `gpu`.

    Args:
        wanted: ``augment.device``. `auto` is `gpu` where the training runs on a GPU and every part
            of the policy has a version for batches, else `cpu`. With `gpu` on a CPU batches are
            augmented there, for tests and for trying a recipe; that is slower than `cpu`.
        device: The training's device.
        policy: The augmentation.

    Raises:
        SegopsError: `wanted` is `gpu`, and a part of the policy has no version for batches.
    """
    kind = torch.device(device).type
    if wanted == "gpu":
        BatchAugmentation(policy)
        if kind != "cuda":
            log.warning(
                "augment.device: gpu, but the training runs on %s: batches are augmented there, "
                "slower than with augment.device: cpu.",
                kind,
            )
        return "gpu"
    return "gpu" if wanted == "auto" and kind == "cuda" and not _cpu_only(policy) else "cpu"


def _cpu_only(policy: Policy) -> list[str]:
    """Names of the policy's transforms that have no version for batches."""
    kinds = [type(transform) for transform in policy.compose.transforms[1:]]
    return [kind.__name__ for kind in kinds if kind not in batch_color.BATCH_TRANSFORMS]


class RawSample(NamedTuple):
    """Pixels of a sample as stored, what was drawn for it after the warp, and its seed."""

    parts: WarpSample
    drawn: tuple[Drawn | None, ...]
    seed: int


class RawBatch(NamedTuple):
    """What a worker hands over: tensors that can be pinned and sent to the device.

    Attributes:
        warp: Pixels, and the maps to crops.
        colors: Of each further transform of the policy what was drawn; None: it acts on no sample.
    """

    warp: WarpBatch
    colors: tuple[batch_color.Encoded | None, ...]


class RawDataset(Dataset[RawSample]):
    """The samples of a :class:`TrainDataset` before augmentation, with the same draws.

    Args:
        dataset: The samples.
    """

    def __init__(self, dataset: TrainDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> RawSample:
        """Fetch and draw the sample of `key`, (epoch, index)."""
        image, mask, seed = self.dataset.source(key)
        geometry, *colors = self.dataset.policy.draw(image, mask, seed)
        if geometry is None:
            raise ValueError("expected a Warp that always acts")
        warp: Warp = self.dataset.policy.compose.transforms[0]
        return RawSample(fetch_parts(warp, geometry, image, mask), tuple(colors), seed)


class BatchAugmentation:
    """A policy for whole batches, with the draws of :class:`Policy` on every device.

    Args:
        policy: The augmentation.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """

    def __init__(self, policy: Policy) -> None:
        missing = _cpu_only(policy)
        if missing:
            raise SegopsError(
                f"augment.device: gpu, but {', '.join(missing)} of the policy acts on the CPU "
                "alone. Set augment.device to cpu or auto, or the probability of this part to 0."
            )
        self.warp: Warp = policy.compose.transforms[0]
        self.kinds = [type(transform) for transform in policy.compose.transforms[1:]]

    def pack(self, samples: Sequence[RawSample]) -> RawBatch:
        """Put samples into a few tensors, in the process that fetched them."""
        seeds = [sample.seed for sample in samples]
        colors = (
            batch_color.encode(kind, [sample.drawn[number] for sample in samples], seeds)
            for number, kind in enumerate(self.kinds)
        )
        return RawBatch(pack_parts(self.warp, [sample.parts for sample in samples]), tuple(colors))

    def __call__(self, batch: RawBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Send a batch to `device` and augment it there.

        Args:
            batch: What :meth:`pack` made; on CUDA it should lie in page-locked memory, else the
                host waits for each copy.
            device: Where to compute.

        Returns:
            Images, uint8 (N, 3, h, w) in channels-last memory, and masks, uint8 (N, h, w), on
            `device`.
        """
        images, masks = warp_batch(_sent(batch.warp, device), self.warp.size)
        for kind, encoded in zip(self.kinds, batch.colors, strict=True):
            if encoded is not None:
                images = batch_color.apply(kind, images, masks, _sent(encoded, device))
        return images.permute(0, 3, 1, 2), masks


def _sent(content: Any, device: torch.device) -> Any:
    """`content` with each tensor in it on `device`; on CUDA the copies are not waited for."""
    if isinstance(content, Tensor):
        return content.to(device, non_blocking=True)
    if isinstance(content, dict):
        return {name: _sent(value, device) for name, value in content.items()}
    if isinstance(content, tuple):
        return type(content)(*(_sent(value, device) for value in content))
    return content
