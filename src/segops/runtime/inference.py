"""Prediction in windows, averaged over scales and mirroring, and refined by a dense CRF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays, as_batch
from .bands import false_colour
from .predict_settings import PredictSettings
from .predictor import require_finite
from .windows import Strip, blend

Network = Callable[[Any], Any]
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

    def strips(self, image: NDArray[np.uint8], network: Network, arrays: Arrays) -> Iterator[Strip]:
        """Predict an image, uint8 (H, W, B), part by part; see :func:`.windows.blend`.

        Only the pixels of a window are sent to the device of the arrays.

        Raises:
            SegopsError: The network's output is not finite.
        """

        def predict(rows: slice, columns: slice) -> Any:
            # A copy, because torch does not take the store's read-only views.
            pixels = arrays.send(np.array(image[rows, columns], order="C"))
            return self._probabilities(pixels, network, arrays)

        height, width = image.shape[:2]
        if self.settings.by_windows(height, width):
            size, window = (height, width), self.settings.window
            yield from blend(size, window, self.settings.overlap, predict, arrays)
        else:
            everything = slice(0, height), slice(0, width)
            yield *everything, predict(*everything)

    def _probabilities(self, pixels: Any, network: Network, arrays: Arrays) -> Any:
        """Probabilities (C, h, w) of pixels uint8 (h, w, B)."""
        settings = self.settings
        found = averaged(as_batch(pixels), network, settings.scales, settings.flip, arrays)
        # A single value that is not finite makes the sum not finite.
        require_finite(arrays.all_finite(found.sum()))
        if not settings.crf.iterations:
            return found
        from .crf import refine  # in torch only

        return refine(found, false_colour(pixels), settings.crf)


def averaged(
    images: Any, network: Network, scales: tuple[float, ...], flip: bool, arrays: Arrays
) -> Any:
    """Mean of the class probabilities over scales and, with `flip`, over the mirrored image.

    Logits are resized to the image's own size before the softmax, as in MMSegmentation.

    Args:
        images: uint8 (1, B, H, W).
        network: Predicts each version of the image.
        scales: Factors by which the image is resized; a side keeps at least one pixel.
        flip: Also predict each version mirrored left to right.
        arrays: The library of `images`.

    Returns:
        float32 (C, H, W), summing to 1 at each pixel.
    """

    def resized(values: Any, size: tuple[int, ...]) -> Any:
        return values if tuple(values.shape[-2:]) == size else arrays.resize(values, size)

    size = tuple(images.shape[-2:])
    total: Any = None
    for scale in scales:
        scaled = resized(images, tuple(max(1, round(side * scale)) for side in size))
        for mirrored in (False, True) if flip else (False,):
            logits = network(arrays.mirror(scaled) if mirrored else scaled)
            found = arrays.softmax(resized(logits[None], size)[0])
            if mirrored:
                found = arrays.mirror(found)
            if total is None:
                total = found
            else:
                total += found
    total /= len(scales) * (1 + flip)
    return total
