"""Mean and standard deviation of the channels of training images, for the normalisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.runtime.bands import IMAGENET_MEAN_COLOR, RGB
from segops.runtime.classes import VOID

LEAST_DEVIATION = 1 / 255
"""A channel of one value is divided by a grey level."""


@dataclass(frozen=True)
class ChannelStatistics:
    """The number of channels, and mean and deviation of each over train, in 0..1.

    RGB images have neither: their normalisation is that of the encoder's pretrained weights. The
    index of another split than train has the number alone.
    """

    channels: int = RGB
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def fill(self) -> tuple[int, ...]:
        """The value of each channel, 0..255, that is about zero once normalised."""
        if not self.mean:
            return IMAGENET_MEAN_COLOR
        return tuple(round(255 * value) for value in self.mean)

    @classmethod
    def of(cls, content: Any) -> ChannelStatistics:
        """What :meth:`to_json` gave; None: RGB."""
        if content is None:
            return cls()
        mean, std = (tuple(content.get(name, ())) for name in ("mean", "std"))
        return cls(int(content["channels"]), mean, std)

    def to_json(self) -> dict[str, Any]:
        """What :meth:`of` reads."""
        content: dict[str, Any] = {"channels": self.channels}
        return content | ({"mean": self.mean, "std": self.std} if self.mean else {})


def measured(
    channels: int, pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
) -> ChannelStatistics:
    """The statistics of images, uint8 (H, W, C), where their masks, uint8 (H, W), are not void."""
    counts = np.zeros((channels, 256), np.int64)
    for image, mask in pairs:
        labelled = mask != VOID
        for channel in range(channels):
            counts[channel] += np.bincount(image[..., channel][labelled], minlength=256)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    levels = np.arange(256) / 255
    mean = shares @ levels
    deviation = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
    return ChannelStatistics(
        channels, tuple(mean.tolist()), tuple(np.maximum(deviation, LEAST_DEVIATION).tolist())
    )
