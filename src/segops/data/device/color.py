"""Colour jitter, blur and noise of whole batches, as :mod:`segops.augment.color` defines them.

Each transform has two halves: `encode` turns what was drawn for a batch into tensors, in the
process that fetches; `apply` computes on the device. What is drawn for no sample of a batch is
encoded as an empty dictionary and costs nothing. Nothing in `apply` waits for the device, and no
sample depends on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from segops.augment.color import (
    LUMA,
    NORMAL_LEVELS,
    ROW_STEP,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
)
from segops.augment.draw import Drawn
from segops.augment.photometric import PhotometricDistortion
from segops.data.device.photometric import apply_photometric, encode_photometric
from segops.runtime.classes import VOID

Encoded = Mapping[str, Any]
"""Tensors, and lists of plain numbers that the host needs."""


class DeviceTransform(NamedTuple):
    """The two halves of a transform that changes images alone.

    Attributes:
        encode: From what was drawn for every sample (None: it does not act) and the samples' seeds.
        apply: From images uint8 (N, h, w, 3), masks uint8 (N, h, w) and what `encode` made, to
            images uint8 (N, h, w, 3).
    """

    encode: Callable[[Sequence[Drawn | None], Sequence[int]], Encoded]
    apply: Callable[[Tensor, Tensor, Encoded], Tensor]


def encode_jitter(drawn: Sequence[Drawn | None], _: Sequence[int]) -> Encoded:
    """`linear`, float32 (N, 3, 3), and `per_grey`, float32 (N,): the offset per mean grey level."""
    if all(one is None for one in drawn):
        return {}
    linear = [np.eye(3) if one is None else one["matrix"][:, :3] for one in drawn]
    per_grey = [0.0 if one is None else (1 - one["contrast"]) * one["brightness"] for one in drawn]
    return {
        "linear": torch.from_numpy(np.stack(linear).astype(np.float32)),
        "per_grey": torch.tensor(per_grey, dtype=torch.float32),
    }


def apply_jitter(images: Tensor, masks: Tensor, encoded: Encoded) -> Tensor:
    """Change colours; samples that are not drawn are multiplied by one, which changes no bit."""
    linear: Tensor = encoded["linear"]
    offset = (encoded["per_grey"] * _mean_grey(images, masks))[:, None, None]
    channels = [one.float() for one in images.unbind(-1)]
    changed = []
    for row in linear.unbind(1):
        total = offset
        for channel, factor in zip(channels, row.unbind(1), strict=True):
            total = total + channel * factor[:, None, None]
        changed.append(total)
    return _to_bytes(torch.stack(changed, dim=-1))


def encode_blur(drawn: Sequence[Drawn | None], _: Sequence[int]) -> Encoded:
    """`samples`, int64 (n,), and their `kernels`, float32 (n, K), padded to the longest one."""
    samples = [number for number, one in enumerate(drawn) if one is not None]
    if not samples:
        return {}
    kernels = [_kernel(one["drawn_sigma"]) for one in drawn if one is not None]
    longest = max(len(kernel) for kernel in kernels)
    padded = [np.pad(kernel, (longest - len(kernel)) // 2) for kernel in kernels]
    return {
        "samples": torch.tensor(samples, dtype=torch.int64),
        "kernels": torch.from_numpy(np.stack(padded)),
    }


def apply_blur(images: Tensor, _: Tensor, encoded: Encoded) -> Tensor:
    """Blur the drawn samples: a sum of shifted images along each axis, borders reflected."""
    samples, kernels = encoded["samples"], encoded["kernels"]
    blurred = images.index_select(0, samples).float()
    for axis in (1, 2):
        length = blurred.shape[axis]
        wide = blurred.index_select(axis, _reflected(length, kernels.shape[1] // 2, images.device))
        blurred = torch.zeros_like(blurred)
        for shift, weights in enumerate(kernels.unbind(1)):
            blurred += wide.narrow(axis, shift, length) * weights[:, None, None, None]
    # Not an assignment by index, which waits for the device.
    changed: Tensor = images.index_copy(0, samples, _to_bytes(blurred))
    return changed


def encode_noise(drawn: Sequence[Drawn | None], seeds: Sequence[int]) -> Encoded:
    """`samples` and their `seeds` as numbers, and `noise`, int16 (n, 256), one value per level."""
    acting = [(number, one) for number, one in enumerate(drawn) if one is not None]
    if not acting:
        return {}
    values = [np.rint(one["drawn_std"] * 255 * NORMAL_LEVELS) for _, one in acting]
    return {
        "samples": [number for number, _ in acting],
        "seeds": [seeds[number] for number, _ in acting],
        "noise": torch.from_numpy(np.stack(values).astype(np.int16)),
    }


def apply_noise(images: Tensor, _: Tensor, encoded: Encoded) -> Tensor:
    """Add noise of the CPU executor's distribution, from a generator of the sample's own seed."""
    generator = torch.Generator(images.device)
    for number, seed, noise in zip(
        encoded["samples"], encoded["seeds"], encoded["noise"], strict=True
    ):
        image = images[number]
        generator.manual_seed(seed)
        levels = torch.randint(
            0, 256, image.shape, generator=generator, dtype=torch.uint8, device=image.device
        )
        image.copy_((image.to(torch.int16) + noise[levels.long()]).clamp_(0, 255))
    return images


DEVICE_TRANSFORMS: dict[type, DeviceTransform] = {
    ColorJitter: DeviceTransform(encode_jitter, apply_jitter),
    PhotometricDistortion: DeviceTransform(encode_photometric, apply_photometric),
    GaussianBlur: DeviceTransform(encode_blur, apply_blur),
    GaussianNoise: DeviceTransform(encode_noise, apply_noise),
}
"""The device's version of a transform of the policy."""


def _mean_grey(images: Tensor, masks: Tensor) -> Tensor:
    """Mean grey of each image, float32 (N,), over the pixels and rows that the CPU executor takes.

    Sums of whole numbers in float64 are exact, so that their order does not matter.
    """
    step = ROW_STEP if images.shape[1] >= 16 * ROW_STEP else 1
    images = images[:, ::step]
    counted = masks[:, ::step] != VOID
    counted = counted | ~counted.flatten(1).any(1)[:, None, None]
    sums = (images * counted.unsqueeze(-1)).sum(dim=(1, 2), dtype=torch.float64)
    red, green, blue = (float(weight) for weight in LUMA)
    grey: Tensor = sums[:, 0] * red + sums[:, 1] * green + sums[:, 2] * blue
    return (grey / counted.sum(dim=(1, 2))).float()


def _kernel(sigma: float) -> Any:
    """The kernel of ``cv2.GaussianBlur`` for bytes, float32 (K,), K odd."""
    size = round(sigma * 6 + 1) | 1
    return cv2.getGaussianKernel(size, sigma, cv2.CV_32F)[:, 0]


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of an axis and what lies `margin` beyond it, reflected about the border's pixels."""
    period = max(1, 2 * (length - 1))
    indices = torch.arange(-margin, length + margin, device=device) % period
    return torch.minimum(indices, period - indices) if length > 1 else torch.zeros_like(indices)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
