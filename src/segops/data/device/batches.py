"""Raw batches: what workers fetch and draw, and what the device makes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segops.augment.draw import Drawn, draw
from segops.augment.geometry import Warp
from segops.augment.policy import Policy
from segops.data.datasets import TrainDataset
from segops.data.device.color import DEVICE_TRANSFORMS, DeviceTransform, Encoded
from segops.data.device.warp import (
    WarpBatch,
    WarpSample,
    fetch_parts,
    pack_parts,
    warp_batch,
)
from segops.data.samplers import SampleKey
from segops.errors import SegopsError

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
    missing = unsupported(policy)
    if wanted == "auto":
        return "gpu" if kind == "cuda" and not missing else "cpu"
    if wanted == "gpu":
        if missing:
            raise refusal(missing)
        if kind != "cuda":
            log.warning(
                "augment.device: gpu, but the training runs on %s: batches are augmented there, "
                "slower than with augment.device: cpu.",
                kind,
            )
        return "gpu"
    return "cpu"


class RawSample(NamedTuple):
    """Pixels of one sample as stored, what is drawn for it after the warp, and its seed."""

    parts: WarpSample
    drawn: tuple[Drawn | None, ...]
    seed: int


class RawBatch(NamedTuple):
    """What a worker hands over: tensors to be sent to the device, in a form that can be pinned.

    Attributes:
        warp: Pixels, and the maps to crops.
        colors: For every further transform of the policy what its `encode` made.
    """

    warp: WarpBatch
    colors: tuple[Encoded, ...]


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
        geometry, *colors = draw(self.dataset.policy, image, mask, seed)
        if geometry is None:
            raise ValueError("expected a Warp that always acts")
        warp: Warp = self.dataset.policy.compose.transforms[0]
        return RawSample(fetch_parts(warp, geometry, image, mask), tuple(colors), seed)


class BatchAugmentation:
    """A policy for whole batches; on every device with the draws of :class:`Policy`.

    Args:
        policy: The augmentation.

    Raises:
        SegopsError: The policy holds a transform that has no version for batches.
    """

    def __init__(self, policy: Policy) -> None:
        missing = unsupported(policy)
        if missing:
            raise refusal(missing)
        self.warp: Warp = policy.compose.transforms[0]
        self.colors: list[DeviceTransform] = [
            DEVICE_TRANSFORMS[type(one)] for one in policy.compose.transforms[1:]
        ]

    def pack(self, samples: Sequence[RawSample]) -> RawBatch:
        """Put samples into a few tensors; done by the process that fetched them."""
        seeds = [one.seed for one in samples]
        colors = (
            transform.encode([one.drawn[number] for one in samples], seeds)
            for number, transform in enumerate(self.colors)
        )
        return RawBatch(pack_parts(self.warp, [one.parts for one in samples]), tuple(colors))

    def __call__(self, batch: RawBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Send a batch to `device` and augment it there.

        Args:
            batch: What :meth:`pack` made; on CUDA it should lie in page-locked memory, or else the
                host waits for each copy.
            device: Where to compute.

        Returns:
            Images, uint8 (N, 3, h, w) in channels-last memory, and masks, uint8 (N, h, w), on
            `device`.
        """
        images, masks = warp_batch(_sent(batch.warp, device), self.warp.size)
        for transform, encoded in zip(self.colors, batch.colors, strict=True):
            if encoded:
                images = transform.apply(images, masks, _sent(encoded, device))
        return images.permute(0, 3, 1, 2), masks


def unsupported(policy: Policy) -> list[str]:
    """Names of the policy's transforms that have no version for batches."""
    colors = policy.compose.transforms[1:]
    return [type(one).__name__ for one in colors if type(one) not in DEVICE_TRANSFORMS]


def refusal(parts: Sequence[str]) -> SegopsError:
    """The error that names parts of the augmentation that cannot run on the device."""
    return SegopsError(
        f"augment.device: gpu, but {', '.join(parts)} of the policy acts on the CPU alone. Set "
        "augment.device to cpu or auto, or the probability of this part to 0."
    )


def _sent(content: Any, device: torch.device) -> Any:
    """`content` with every tensor in it on `device`; on CUDA the copies are not waited for."""
    if isinstance(content, Tensor):
        return content.to(device, non_blocking=True)
    if isinstance(content, dict):
        return {name: _sent(value, device) for name, value in content.items()}
    if isinstance(content, tuple):
        return type(content)(*(_sent(value, device) for value in content))
    return content
