"""The policy's colour transforms for whole batches, as :mod:`segops.augment` defines them.

What was drawn becomes tensors in the process that fetches; the transforms compute on the device.
They never wait for it, and no sample depends on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segops.augment.color import (
    LUMA,
    ROW_STEP,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    recoloured,
)
from segops.augment.photometric import PhotometricDistortion, make_tables
from segops.augment.policy import Drawn
from segops.runtime.classes import VOID

FRACTION_BITS = 12
"""Fractional bits of OpenCV's table of divisions."""


class Encoded(NamedTuple):
    """What was drawn of a transform for the n samples of a batch on which it acts.

    `samples` are their numbers in the batch, int64 (n,). The first axis of all `params` is n.
    """

    samples: Tensor
    seeds: list[int]
    params: dict[str, Tensor]


Encode = Callable[[Drawn], dict[str, Any]]
"""From what was drawn for a sample to the arrays that the version for batches needs."""

Apply = Callable[[Tensor, Tensor, Encoded], Tensor]
"""From images uint8 (n, h, w, C), which it may overwrite, masks uint8 (n, h, w) and encoded draws
to images uint8 (n, h, w, C)."""


def encode(kind: type, drawn: Sequence[Drawn | None], seeds: Sequence[int]) -> Encoded | None:
    """Put what was drawn for the samples of a batch into tensors.

    Args:
        kind: The transform's class.
        drawn: What was drawn for each sample; None where the transform does not act.
        seeds: The seed of each sample.

    Returns:
        None where the transform acts on no sample.
    """
    acting = [(number, params) for number, params in enumerate(drawn) if params is not None]
    if not acting:
        return None
    numbers = [number for number, _ in acting]
    rows = [BATCH_TRANSFORMS[kind][0](params) for _, params in acting]
    stacks = {name: torch.from_numpy(_stacked([row[name] for row in rows])) for name in rows[0]}
    return Encoded(torch.tensor(numbers), [seeds[number] for number in numbers], stacks)


def apply(kind: type, images: Tensor, masks: Tensor, encoded: Encoded) -> Tensor:
    """Change the images, uint8 (N, h, w, C) with masks (N, h, w), on which a transform acts."""
    chosen, labels = (part.index_select(0, encoded.samples) for part in (images, masks))
    changed = BATCH_TRANSFORMS[kind][1](chosen, labels, encoded)
    # Not an assignment by index, which waits for the device.
    return images.index_copy(0, encoded.samples, changed)


def _encode_jitter(drawn: Drawn) -> dict[str, Any]:
    return {name: np.asarray(drawn[name], np.float32) for name in ("linear", "per_grey")}


def _apply_jitter(images: Tensor, masks: Tensor, encoded: Encoded) -> Tensor:
    offset = (encoded.params["per_grey"] * _mean_grey(images, masks))[:, None, None]
    channels = [channel.float() for channel in images.unbind(-1)]
    changed = []
    for row in encoded.params["linear"].unbind(1):
        total = offset
        for channel, factor in zip(channels, row.unbind(1), strict=True):
            total = total + channel * factor[:, None, None]
        changed.append(total)
    return _to_bytes(torch.stack(changed, dim=-1))


def _mean_grey(images: Tensor, masks: Tensor) -> Tensor:
    """Mean grey of each image, float32 (n,), over the pixels that ``ColorJitter`` counts.

    Sums of whole numbers in float64 are exact, so their order does not matter.
    """
    step = ROW_STEP if images.shape[1] >= 16 * ROW_STEP else 1
    images = images[:, ::step]
    counted = masks[:, ::step] != VOID
    counted = counted | ~counted.flatten(1).any(1)[:, None, None]
    sums = (images * counted.unsqueeze(-1)).sum(dim=(1, 2), dtype=torch.float64)
    red, green, blue = (float(weight) for weight in LUMA)
    grey: Tensor = sums[:, 0] * red + sums[:, 1] * green + sums[:, 2] * blue
    return (grey / counted.sum(dim=(1, 2))).float()


def _encode_photometric(drawn: Drawn) -> dict[str, Any]:
    names = ("brightness", "contrast", "contrast_first", "saturation", "hue")
    return make_tables(**{name: drawn[name] for name in names})._asdict()


def _apply_photometric(images: Tensor, _: Tensor, encoded: Encoded) -> Tensor:
    tables = encoded.params
    images = _replaced(images, tables["before"])
    hue, saturation, value = rgb_to_hsv(images)
    hue, saturation = (
        _replaced(part, tables["hsv"][..., channel].contiguous())
        for channel, part in enumerate((hue, saturation))
    )
    changed = _replaced(hsv_to_rgb(hue, saturation, value), tables["after"])
    return changed.where(tables["changes_color"][:, None, None, None], images)


def rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in 256 steps, saturation and value, uint8 (N, h, w) each, of uint8 (N, h, w, 3).

    The same bits as ``cv2.COLOR_RGB2HSV_FULL``.
    """
    red, green, blue = (channel.int() for channel in images.unbind(-1))
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation = _rounded(spread * _reciprocal(255, value))
    turn = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _rounded(turn * _reciprocal(256 / 6, spread)) % 256
    return hue.to(torch.uint8), saturation.to(torch.uint8), value.to(torch.uint8)


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colours, uint8 (N, h, w, 3), of ``cv2.COLOR_HSV2RGB_FULL``, to one level."""
    # OpenCV reads the circle in 255 steps, though it writes it in 256.
    position = hue.float() * (6 / 255)
    level, share = value.float(), saturation.float() / 255
    channels = []
    for begin in (5, 3, 1):
        # Distance on the circle to where this channel is least, cut to the ramp's two ends.
        distance = (position + begin) % 6
        ramp = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        channels.append(level - level * share * ramp)
    return _to_bytes(torch.stack(channels, dim=-1))


def _replaced(levels: Tensor, tables: Tensor) -> Tensor:
    """Each level replaced by the entry of its sample's table, uint8 (n, 256)."""
    first = torch.arange(len(tables), device=tables.device) * 256
    first = first.reshape(-1, *[1] * (levels.ndim - 1))
    return tables.flatten()[levels.long() + first]


def _reciprocal(numerator: float, divisors: Tensor) -> Tensor:
    """`numerator` over whole numbers in 0..255, in fixed point; 0 for 0."""
    steps = torch.arange(256, device=divisors.device, dtype=torch.float64).clamp_(min=1)
    table: Tensor = (numerator * 2**FRACTION_BITS / steps).round_().int()
    return table[divisors] * (divisors > 0)


def _rounded(fixed: Tensor) -> Tensor:
    whole: Tensor = (fixed + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS
    return whole


def _encode_blur(drawn: Drawn) -> dict[str, Any]:
    """The kernel that ``cv2.GaussianBlur`` takes for bytes."""
    sigma = drawn["drawn_sigma"]
    return {"kernels": cv2.getGaussianKernel(round(sigma * 6 + 1) | 1, sigma, cv2.CV_32F)[:, 0]}


def _apply_blur(images: Tensor, _: Tensor, encoded: Encoded) -> Tensor:
    """A sum of shifted images along each axis; borders are reflected."""
    kernels = encoded.params["kernels"]
    blurred = images.float()
    for axis in (1, 2):
        length = blurred.shape[axis]
        wide = blurred.index_select(axis, _reflected(length, kernels.shape[1] // 2, images.device))
        blurred = torch.zeros_like(blurred)
        for shift, weights in enumerate(kernels.unbind(1)):
            blurred += wide.narrow(axis, shift, length) * weights[:, None, None, None]
    return _to_bytes(blurred)


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of an axis and of `margin` pixels beyond it, reflected about the border's pixels."""
    period = max(1, 2 * (length - 1))
    indices = torch.arange(-margin, length + margin, device=device) % period
    return torch.minimum(indices, period - indices) if length > 1 else torch.zeros_like(indices)


def _apply_noise(images: Tensor, _: Tensor, encoded: Encoded) -> Tensor:
    """The CPU's noise in distribution; the random bytes are drawn on the device."""
    generator = torch.Generator(images.device)
    for image, seed, noise in zip(images, encoded.seeds, encoded.params["noise"], strict=True):
        generator.manual_seed(seed)
        levels = torch.randint(
            0, 256, image.shape, generator=generator, dtype=torch.uint8, device=image.device
        )
        image.copy_((image.to(torch.int16) + noise[levels.long()]).clamp_(0, 255))
    return images


def _on_colours(change: Apply) -> Apply:
    """A change of RGB images, for images of any channels."""

    def apply_to_colours(images: Tensor, masks: Tensor, encoded: Encoded) -> Tensor:
        return recoloured(images, lambda rgb: change(rgb, masks, encoded))

    return apply_to_colours


BATCH_TRANSFORMS: dict[type, tuple[Encode, Apply]] = {
    ColorJitter: (_encode_jitter, _on_colours(_apply_jitter)),
    PhotometricDistortion: (_encode_photometric, _on_colours(_apply_photometric)),
    GaussianBlur: (_encode_blur, _apply_blur),
    GaussianNoise: (lambda drawn: {"noise": drawn["noise"]}, _apply_noise),
}
"""The transforms that have a version for batches."""


def _stacked(rows: Sequence[Any]) -> NDArray[Any]:
    """Arrays stacked; those shorter than the longest are padded with zeros on both sides."""
    if np.ndim(rows[0]) == 1:
        longest = max(map(len, rows))
        rows = [np.pad(row, (longest - len(row)) // 2) for row in rows]
    return np.stack(rows)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
