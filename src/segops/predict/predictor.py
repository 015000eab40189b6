"""The one predictor, used by training's selection, evaluation, the command line and serving."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import SegopsError
from ..voc.classes import VOID
from ..voc.images import decode_image
from ..voc.masks import encode_mask


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image.

    Attributes:
        mask: uint8 of shape (H, W): a class id a pixel, at the image's own size; never void.
        confidence: Mean over the pixels of the top class's probability, 1/C..1.
    """

    mask: NDArray[np.uint8]
    confidence: float


class Predictor:
    """Predicts whole images, one at a time, in float32.

    One image at a time and at its own size, so that no image's mask depends on its neighbours in a
    batch or on padding to them.

    Args:
        network: Takes images (N, 3, H, W) in 0..255 of any size, returns logits (N, C, H, W). Its
            modules may be in training mode: they predict in evaluation mode and are put back.
        class_names: The C names in id order.
        device: Where the network lies and images are sent.
    """

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        self.network = network
        self.class_names = tuple(class_names)
        self.device = torch.device(device)
        if not 1 <= len(self.class_names) <= VOID:
            raise SegopsError(f"{len(self.class_names)} classes; expected 1 to {VOID}.")

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Predict one image.

        Args:
            image: uint8 of shape (H, W, 3), RGB.

        Returns:
            Mask and confidence.

        Raises:
            SegopsError: The network's output is not finite or has another shape.
            ValueError: `image` is no such array.
        """
        with _inference(self.network, self.device):
            logits = self._logits(image)
            top, mask = logits.max(dim=0)
            self._require_finite(top)
            probability = (top - logits.logsumexp(dim=0)).exp()
            confidence = float(probability.mean(dtype=torch.float64))
            return Prediction(_to_mask(mask), confidence)

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask of :meth:`predict`, without the cost of the confidence."""
        with _inference(self.network, self.device):
            top, mask = self._logits(image).max(dim=0)
            self._require_finite(top)
            return _to_mask(mask)

    def predict_bytes(self, content: bytes | str, name: str = "image") -> tuple[bytes, float]:
        """Predict an image file's content.

        An EXIF orientation is applied, so that the mask lies on the picture as it is seen.

        Args:
            content: Bytes of a JPEG or PNG file, or these bytes in base64.
            name: What the message of an error calls the image.

        Returns:
            The mask as a palette PNG of the image's size, and the confidence.

        Raises:
            SegopsError: The content is not base64 or not decodable as an image of 8 bits a channel.
        """
        if isinstance(content, str):
            try:
                content = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError) as error:
                raise SegopsError(
                    f"{name}: not base64: {error}. Give an image file's bytes, or them in base64."
                ) from None
        prediction = self.predict(decode_image(content, name, apply_orientation=True))
        return encode_mask(prediction.mask), prediction.confidence

    def _logits(self, image: NDArray[np.uint8]) -> Tensor:
        """Logits of shape (C, H, W), float32."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"image is {image.dtype} of shape {image.shape}; expected uint8 of (H, W, 3)"
            )
        # A copy, because the store hands out read-only views, which torch does not take.
        pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]
        logits: Tensor = self.network(pixels.to(self.device))
        expected = (1, len(self.class_names), *image.shape[:2])
        if tuple(logits.shape) != expected:
            raise SegopsError(
                f"The network returns logits of shape {tuple(logits.shape)}; expected {expected}, "
                f"one channel for each of {', '.join(self.class_names)}."
            )
        return logits[0].float()

    def _require_finite(self, top: Tensor) -> None:
        # A NaN anywhere among a pixel's logits is its maximum.
        if not bool(top.isfinite().all()):
            raise SegopsError(
                "The network's output is not finite: its weights are broken. Train it anew."
            )


@contextmanager
def _inference(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, true float32 and deterministic kernels, for a while."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        for module in training:
            module.training = True


def _to_mask(ids: Tensor) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
    return mask
