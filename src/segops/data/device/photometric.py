"""Photometric distortion of whole batches, in whole numbers as OpenCV converts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segops.augment.draw import Drawn
from segops.augment.photometric import LEVELS, changes_color, hsv_table, level_tables

SHIFT = 12
"""Fractional bits of OpenCV's table of divisions."""


def encode_photometric(drawn: Sequence[Drawn | None], _: Sequence[int]) -> dict[str, Any]:
    """Tables uint8 (N, 256): `before`, `after`, `hue`, `saturation`; `colored`, bool (N,)."""
    if all(one is None for one in drawn):
        return {}
    tables: dict[str, list[Any]] = {
        name: [] for name in ("before", "after", "hue", "saturation", "colored")
    }
    for one in drawn:
        before, after, hsv, colored = LEVELS, LEVELS, hsv_table(1, 0), False
        if one is not None:
            colored = changes_color(one["saturation"], one["hue"])
            before, after = level_tables(
                one["brightness"], one["contrast"], one["contrast_first"], colored
            )
            hsv = hsv_table(one["saturation"], one["hue"])
        tables["before"].append(np.rint(before).astype(np.uint8))
        tables["after"].append(np.rint(after).astype(np.uint8))
        tables["hue"].append(hsv[:, 0])
        tables["saturation"].append(hsv[:, 1])
        tables["colored"].append(colored)
    return {name: torch.from_numpy(np.stack(rows)) for name, rows in tables.items()}


def apply_photometric(images: Tensor, _: Tensor, encoded: Any) -> Tensor:
    """Distort images uint8 (N, h, w, 3); those that are not drawn meet tables of no change."""
    images = _mapped(images, encoded["before"])
    hue, saturation, value = rgb_to_hsv(images)
    changed = hsv_to_rgb(
        _mapped(hue, encoded["hue"]), _mapped(saturation, encoded["saturation"]), value
    )
    changed = _mapped(changed, encoded["after"])
    return changed.where(encoded["colored"][:, None, None, None], images)


def rgb_to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in 256 steps, saturation and value, uint8 (N, h, w) each, of uint8 (N, h, w, 3).

    To the bit what ``cv2.COLOR_RGB2HSV_FULL`` gives.
    """
    red, green, blue = (one.int() for one in images.unbind(-1))
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
    return torch.stack(channels, dim=-1).round_().to(torch.uint8)


def _mapped(levels: Tensor, tables: Tensor) -> Tensor:
    """Every level replaced by what its sample's table says."""
    first = torch.arange(len(tables), device=tables.device) * 256
    first = first.reshape(-1, *[1] * (levels.ndim - 1))
    return tables.flatten()[levels.long() + first]


def _reciprocal(numerator: float, divisors: Tensor) -> Tensor:
    """`numerator` over whole numbers in 0..255, in fixed point; 0 for 0."""
    steps = torch.arange(256, device=divisors.device, dtype=torch.float64).clamp_(min=1)
    table: Tensor = (numerator * 2**SHIFT / steps).round_().int()
    return table[divisors] * (divisors > 0)


def _rounded(fixed: Tensor) -> Tensor:
    whole: Tensor = (fixed + (1 << (SHIFT - 1))) >> SHIFT
    return whole
