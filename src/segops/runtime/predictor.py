"""The predictor of training's selection, evaluation, the command line and serving."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .bands import RGB, decode_consumer_bands
from .classes import VOID, Classes
from .errors import SegopsError
from .masks import encode_mask

if TYPE_CHECKING:
    # Training predicts whole images, and its hash does not depend on the code of all else.
    from .inference import Inference
    from .windows import Strip

_CACHED_LOGITS = 300_000
"""Logits processed at a time on a CPU: 1.2 MB, which fits into a cache."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of an image.

    Attributes:
        mask: uint8 of shape (H, W): a class id for each pixel of the image; never void.
        confidence: Mean over the pixels of the top class's probability, 1/C..1.
    """

    mask: NDArray[np.uint8]
    confidence: float


class Predictor:
    """Predicts images in float32, each alone and at its own size.

    So no mask depends on the other images of a batch or on padding to their size.

    Args:
        network: Takes images (N, B, H, W) in 0..255 of any size, returns logits (N, C, H, W). It
            is in evaluation mode during a prediction only.
        class_names: The C names in id order.
        device: Device of the network, to which images are sent.
        inference: Windows, averages and refinement; None: a single pass of the whole image.
        bit_depth: As of :class:`.images.Photographs`, for :meth:`predict_bytes`.
        channels: B, the channels of an image; three are RGB.
        classes: The classes with the colours of predicted masks; None: VOC's colours.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        inference: Inference | None = None,
        bit_depth: int | None = 16,
        channels: int = RGB,
        classes: Classes | None = None,
    ) -> None:
        self.network = network
        self.class_names = tuple(class_names)
        self.device = torch.device(device)
        self.inference = inference
        self.bit_depth = bit_depth
        self.channels = channels
        self.classes = classes or Classes(self.class_names)
        if not 1 <= len(self.class_names) <= VOID:
            raise SegopsError(f"{len(self.class_names)} classes; expected 1 to {VOID}.")

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Predict an image.

        Args:
            image: uint8 of shape (H, W, B); three channels are RGB.

        Raises:
            SegopsError: The network's output is not finite or has another shape.
            ValueError: `image` has another dtype or shape.
        """
        with evaluating(self.network, self.device):
            mask = self._empty_mask(image)
            confidence = torch.zeros((), dtype=torch.float64, device=self.device)
            for place, ids, top in self._parts(image):
                mask[place] = ids
                confidence += top.sum(dtype=torch.float64)
            return Prediction(mask.cpu().numpy(), float(confidence / mask.numel()))

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask of :meth:`predict`, without the cost of the confidence."""
        mask: NDArray[np.uint8] = self.predict_ids(image).cpu().numpy()
        return mask

    def predict_ids(self, image: NDArray[np.uint8]) -> Tensor:
        """The mask of :meth:`predict_mask` as a uint8 tensor (H, W) on the device."""
        mask = self._empty_mask(image)
        with evaluating(self.network, self.device):
            for place, ids, _ in self._parts(image, with_probability=False):
                mask[place] = ids
        return mask

    def predict_tensors(self, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """The mask of :meth:`predict` and the probability of every pixel's class, on the device.

        Returns:
            The mask, uint8 (H, W), and the top class's probability, float32 (H, W), 1/C..1.
        """
        mask = self._empty_mask(image)
        probability = torch.empty_like(mask, dtype=torch.float32)
        with evaluating(self.network, self.device):
            for place, ids, top in self._parts(image):
                mask[place] = ids
                probability[place] = top
        return mask, probability

    def predict_probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of every class at every pixel, float32 (C, H, W), for :meth:`predict`."""
        self._check(image)
        found = np.empty((len(self.class_names), *image.shape[:2]), np.float32)
        with evaluating(self.network, self.device):
            strips = self._strips(image)
            if strips is None:
                logits = self._logits(image)
                require_finite(logits.amax(dim=0))
                found[:] = logits.softmax(dim=0).cpu().numpy()
            else:
                for rows, columns, probabilities in strips:
                    found[:, rows, columns] = probabilities.cpu().numpy()
        return found

    def predict_bytes(self, content: bytes | str, name: str = "image") -> tuple[bytes, float]:
        """Predict the bytes of an image file (JPEG, PNG, ...), or these in base64.

        For other than RGB the file has all bands: a TIFF, or a PNG of 2 or 4.

        The EXIF orientation is applied, so that the mask fits the image as viewers show it.
        Messages call the image `name`.

        Returns:
            The mask as a palette PNG of the image's size, and the confidence.

        Raises:
            SegopsError: The content is not base64, is no image that can be read as RGB, or has
                more pixels than the bundle's `predict.max_pixels`.
        """
        if isinstance(content, str):
            try:
                content = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError) as error:
                raise SegopsError(
                    f"{name}: not base64: {error}. Give an image file's bytes, or them in base64."
                ) from None
        limit = None if self.inference is None else self.inference.settings.max_pixels
        image = decode_consumer_bands(content, name, limit, self.channels, self.bit_depth)
        prediction = self.predict(image)
        return encode_mask(prediction.mask, self.classes.palette()), prediction.confidence

    def _parts(
        self, image: NDArray[np.uint8], with_probability: bool = True
    ) -> Iterator[tuple[tuple[slice, slice], Tensor, Tensor]]:
        """Rows and columns, class ids (h, w) and their probabilities (h, w) of all parts.

        Without `with_probability` the last tensor has no meaning.
        """
        strips = self._strips(image)
        if strips is not None:
            for rows, columns, probabilities in strips:
                top, ids = probabilities.max(dim=0)
                yield (rows, columns), ids, top
            return
        logits = self._logits(image)
        top, ids = logits.max(dim=0)
        require_finite(top)
        if with_probability:
            top = _top_probability(logits, top)
        yield (slice(None), slice(None)), ids, top

    def _strips(self, image: NDArray[np.uint8]) -> Iterator[Strip] | None:
        """The parts of an image; None if a single pass of the whole image is the prediction."""
        if self.inference is None or self.inference.is_plain(*image.shape[:2]):
            return None
        return self.inference.strips(image, self._run, self.device)

    def _logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Logits of shape (C, H, W), float32."""
        # A copy, because torch does not take the store's read-only views.
        pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]
        return self._run(pixels.to(self.device))

    def _run(self, pixels: Tensor) -> Tensor:
        """Logits (C, h, w), float32, of pixels (1, B, h, w)."""
        logits: Tensor = self.network(pixels)
        expected = (1, len(self.class_names), *pixels.shape[2:])
        if tuple(logits.shape) != expected:
            raise SegopsError(
                f"The network returns logits of shape {tuple(logits.shape)}; expected {expected}, "
                f"one channel for each of {', '.join(self.class_names)}."
            )
        return logits[0].float()

    def _empty_mask(self, image: NDArray[np.uint8]) -> Tensor:
        self._check(image)
        return torch.empty(image.shape[:2], dtype=torch.uint8, device=self.device)

    def _check(self, image: NDArray[np.uint8]) -> None:
        shaped = image.ndim == 3 and image.shape[2] == self.channels
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise ValueError(
                f"image is {image.dtype} of shape {image.shape}; expected uint8 of "
                f"(H, W, {self.channels})"
            )


def require_finite(values: Tensor) -> None:
    """Raise a SegopsError if a value is not finite: a maximum is NaN if any value of it is NaN."""
    if not bool(values.isfinite().all()):
        raise SegopsError(
            "The network's output is not finite: its weights are broken. Train it anew."
        )


def _top_probability(logits: Tensor, top: Tensor) -> Tensor:
    """The softmax probability (H, W) of the largest of the logits (C, H, W), which is `top`."""
    rows = len(top)
    if logits.device.type == "cpu":  # a few rows at a time stay in the caches
        rows = max(1, _CACHED_LOGITS // (len(logits) * top.shape[1]))
    sums = torch.empty_like(top)
    for start in range(0, len(top), rows):
        part = slice(start, start + rows)
        torch.sum((logits[:, part] - top[part]).exp_(), dim=0, out=sums[part])
    return sums.reciprocal_()


@contextmanager
def evaluating(
    network: nn.Module, device: torch.device, *, gradients: bool = False
) -> Iterator[None]:
    """Evaluation mode, true float32 and deterministic kernels; gradients if asked for."""
    training = [module for module in network.modules() if module.training]
    precision = torch.get_float32_matmul_precision()
    for module in training:
        module.training = False
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(not gradients),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True
