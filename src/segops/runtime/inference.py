"""Prediction in windows, averaged over scales and mirroring, and refined by a dense CRF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .bands import false_colour
from .crf import refine
from .predict_settings import PredictSettings
from .predictor import require_finite
from .windows import Strip, blend

Network = Callable[[Tensor], Tensor]
"""Takes pixels (1, B, h, w) in 0..255 of any size, returns logits float32 (C, h, w)."""


class Inference:
    """Composes windows, test-time augmentation and the dense CRF, as section `predict` says.

    In window mode each window is averaged and refined like a whole image, then the windows are
    blended.
    """

    def __init__(self, settings: PredictSettings) -> None:
        self.settings = settings

    def is_plain(self, height: int, width: int) -> bool:
        """Whether a single pass of the whole image through the network is the prediction."""
        settings = self.settings
        if settings.flip or settings.scales != (1.0,) or settings.crf.iterations:
            return False
        return not settings.by_windows(height, width)

    def strips(
        self, image: NDArray[np.uint8], network: Network, device: torch.device
    ) -> Iterator[Strip]:
        """Predict an image, uint8 (H, W, B), part by part; see :func:`.windows.blend`.

        Only the pixels of a window are sent to the network's device.

        Raises:
            SegopsError: The network's output is not finite.
        """

        def predict(rows: slice, columns: slice) -> Tensor:
            # A copy, because torch does not take the store's read-only views.
            pixels = torch.from_numpy(np.array(image[rows, columns], order="C")).to(device)
            return self._probabilities(pixels, network)

        height, width = image.shape[:2]
        if self.settings.by_windows(height, width):
            size, window = (height, width), self.settings.window
            yield from blend(size, window, self.settings.overlap, predict, device)
        else:
            everything = slice(0, height), slice(0, width)
            yield *everything, predict(*everything)

    def _probabilities(self, pixels: Tensor, network: Network) -> Tensor:
        """Probabilities (C, h, w) of pixels uint8 (h, w, B)."""
        images = pixels.permute(2, 0, 1)[None]
        found = averaged(images, network, self.settings.scales, self.settings.flip)
        # A single value that is not finite makes the sum not finite.
        require_finite(found.sum())
        return refine(found, false_colour(pixels), self.settings.crf)


def averaged(images: Tensor, network: Network, scales: tuple[float, ...], flip: bool) -> Tensor:
    """Mean of the class probabilities over scales and, with `flip`, over the mirrored image.

    Logits are resized to the image's own size before the softmax, as in MMSegmentation.

    Args:
        images: uint8 (1, B, H, W).
        network: Predicts each version of the image.
        scales: Factors by which the image is resized; a side keeps at least one pixel.
        flip: Also predict each version mirrored left to right.

    Returns:
        float32 (C, H, W), summing to 1 at each pixel.
    """
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled = _resized(images, [max(1, round(side * scale)) for side in size])
        for mirrored in (False, True) if flip else (False,):
            logits = network(scaled.flip(-1) if mirrored else scaled)
            found = _resized(logits[None], size)[0].softmax(dim=0)
            if mirrored:
                found = found.flip(-1)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(scales) * (1 + flip))


def _resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """(1, N, H, W) resized bilinearly; the same tensor if it has the size already."""
    if list(values.shape[-2:]) == list(size):
        return values
    return functional.interpolate(values.float(), list(size), mode="bilinear", align_corners=False)
