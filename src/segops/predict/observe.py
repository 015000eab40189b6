"""What is kept of an image and its prediction to find drift: figures and features, no pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.bands import RGB, false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.predictor import Prediction
from segops.voc.hashes import pixel_hash

from .bundle import TORCH, BundledPredictor

if TYPE_CHECKING:
    from torch import Tensor, nn

STATISTICS = (
    *("brightness", "contrast", "red", "blue", "saturation", "sharpness", "noise"),
    *("pixels", "shape"),
)
"""Names of the statistics of an RGB image; see :func:`statistics_of`."""
DIGITS = 6
"""Digits behind the point of all figures."""
_STEP = 4
"""The entropy is that of every so many-th pixel of every so many-th row."""
_LARGEST_HALF = 65504.0
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True)
class Predicted:
    """What is kept of a prediction.

    Attributes:
        shares: The share of the image, 0..1, that is predicted as each class, in id order.
        confidence: Mean probability of the top class, 0..1.
        entropy: Mean entropy of the class probabilities, 0..1 (1: all classes alike); None where
            the bundle's code is too old to give access to its network, and for exports.
        embedding: float16 (D,), the mean of the encoder's coarsest features over the image; None
            as `entropy`.
    """

    shares: tuple[float, ...]
    confidence: float
    entropy: float | None
    embedding: NDArray[np.float16] | None


@dataclass(frozen=True)
class Observation:
    """What is kept of an image.

    Attributes:
        pixels: Its :func:`segops.voc.hashes.pixel_hash`, in hexadecimal.
        width: Pixels.
        height: Pixels.
        statistics: Values of :func:`statistics_of`.
        predicted: What is kept of its prediction; None: it was not predicted.
    """

    pixels: str
    width: int
    height: int
    statistics: tuple[float, ...]
    predicted: Predicted | None = None


def statistic_names(channels: int) -> tuple[str, ...]:
    """Names of the values of :func:`statistics_of` for images of so many channels."""
    return STATISTICS if channels == RGB else (*STATISTICS, *_band_names(channels))


def _band_names(channels: int) -> list[str]:
    return [f"band {number}" for number in range(1, channels + 1)]


def statistics_of(image: NDArray[np.uint8]) -> tuple[float, ...]:
    """Statistics of colour, sharpness and size of an image, uint8 (H, W, C), at its own size.

    Images of other than three channels are taken in false colour, and the mean of each band, 0..1,
    follows.

    Returns:
        Brightness (mean luma, 0..1), contrast (its deviation), the shares of red and blue in the
        mean colour, saturation (mean difference of the largest and the smallest channel, 0..1),
        sharpness (logarithm to base 2 of the mean absolute Laplacian of the luma over its
        deviation), noise (logarithm to base 2 of the deviation of the noise in grey levels,
        Immerkær 1996), logarithms to base 2 of the pixels and of the width over the height.
    """
    height, width = image.shape[:2]
    picture = np.ascontiguousarray(false_colour(image))
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(luma))
    laplacian = cv2.norm(cv2.Laplacian(luma, cv2.CV_16S), cv2.NORM_L1) / luma.size
    noise = cv2.norm(cv2.filter2D(luma, cv2.CV_16S, _NOISE), cv2.NORM_L1) / luma.size
    colour = [float(value) for value in cv2.mean(picture)[:RGB]]
    total = sum(colour)
    red, blue = (colour[0] / total, colour[2] / total) if total else (1 / 3, 1 / 3)
    saturation = float((picture.max(axis=2) - picture.min(axis=2)).mean())
    bands = [] if image.shape[2] == RGB else (image.reshape(-1, image.shape[2]).mean(axis=0) / 255)
    return (
        mean / 255,
        deviation / 255,
        red,
        blue,
        saturation / 255,
        math.log2((laplacian + 0.01) / (deviation + 0.01)),
        math.log2(noise * math.sqrt(math.pi / 2) / 6 + 0.01),
        math.log2(width * height),
        math.log2(width / height),
        *map(float, bands),
    )


def observe(image: NDArray[np.uint8], predicted: Predicted | None = None) -> Observation:
    """What is kept of an image, uint8 (H, W, C), and of its prediction."""
    height, width = image.shape[:2]
    digest = pixel_hash([image], width, height)
    return Observation(digest, width, height, _rounded(statistics_of(image)), predicted)


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Values as the log holds them: other digits would look like a drift of what is constant."""
    return tuple(round(float(value), DIGITS) for value in values)


Observe = Callable[[NDArray[np.uint8]], tuple[Prediction, Observation]]
"""Predicts an image as the predictor does, and observes both; safe to call in several threads."""


@contextmanager
def observing(predictor: BundledPredictor) -> Iterator[Observe]:
    """Yield what predicts images with a predictor and observes them on the way.

    Each image is predicted once. In windows, at several scales or mirrored, the means are over all
    passes of the network, weighted by their pixels.
    """
    passes = _Passes()
    classes = len(predictor.class_names)
    network: nn.Module | None = None
    if predictor.runtime == TORCH:
        with suppress(SegopsError):  # a bundle of old code
            network = predictor.network

    def predict(image: NDArray[np.uint8]) -> tuple[Prediction, Observation]:
        passes.reset()
        prediction = predictor.predict(image)
        counts = np.bincount(prediction.mask.ravel(), minlength=classes)
        embedding, entropy = passes.means()
        kept = Predicted(
            _rounded(counts / prediction.mask.size),
            round(prediction.confidence, DIGITS),
            None if entropy is None else round(entropy, DIGITS),
            embedding,
        )
        return prediction, observe(image, kept)

    with ExitStack() as hooks:
        if network is not None:
            from .deepest import inner_of, pass_deepest  # an export is observed without torch

            inner = inner_of(network)
            hooks.callback(network.register_forward_pre_hook(passes.note_size).remove)
            hooks.callback(inner.register_forward_pre_hook(passes.note_padded).remove)
            hooks.callback(pass_deepest(network, passes.add_features).remove)
            hooks.callback(network.register_forward_hook(passes.add_logits).remove)
        yield predict


class _Passes(local):
    """Sums over the passes of the network for an image of this thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin an image."""
        self.size = self.padded = (1, 1)
        self.weight = 0
        self.features: Tensor | None = None
        self.entropy: Tensor | None = None

    def note_size(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Hook before the network: the size of its images."""
        self.size = inputs[0].shape[-2], inputs[0].shape[-1]

    def note_padded(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Hook before the inner network: their size with padding below and on the right."""
        self.padded = inputs[0].shape[-2], inputs[0].shape[-1]

    def add_features(self, features: Tensor) -> Tensor:
        """Add the mean of features (1, D, h, w) over the image without its padding."""
        rows, columns = (
            max(1, math.ceil(own / padded * side))
            for own, padded, side in zip(self.size, self.padded, features.shape[-2:], strict=True)
        )
        own = features[0, :, :rows, :columns].float().mean(dim=(1, 2)) * math.prod(self.size)
        self.features = own if self.features is None else self.features + own
        self.weight += math.prod(self.size)
        return features

    def add_logits(self, _network: nn.Module, _inputs: Any, logits: Any) -> None:
        """Hook after the network: add the entropy of logits (1, C, h, w)."""
        classes = logits.shape[1]
        scores = logits[0, :, ::_STEP, ::_STEP].float().log_softmax(dim=0)
        own = -(scores.exp() * scores).sum(dim=0).mean() / math.log(max(classes, 2))
        own = own * math.prod(self.size)
        self.entropy = own if self.entropy is None else self.entropy + own

    def means(self) -> tuple[NDArray[np.float16] | None, float | None]:
        """The embedding and the entropy; None where no pass was seen."""
        if self.features is None or self.entropy is None:
            return None, None
        import torch

        mean = (self.features / self.weight).clamp(-_LARGEST_HALF, _LARGEST_HALF)
        half: NDArray[np.float16] = mean.to(torch.float16).cpu().numpy()
        return half, float(self.entropy) / self.weight
