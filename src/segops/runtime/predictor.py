"""The rule by which an image becomes a mask, the same in training, evaluation and serving."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Arrays, as_batch
from .bands import RGB, decode_consumer_bands
from .classes import VOID, Classes
from .errors import SegopsError
from .masks import encode_mask

if TYPE_CHECKING:
    # Training predicts whole images, and its hash does not depend on the code of all else.
    from .inference import Inference, Network
    from .windows import Strip


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
        network: Takes images (1, B, H, W) in 0..255 of any size, uint8 or float32, and returns
            logits float32 (1, C, H, W).
        arrays: The library whose arrays the network takes and returns.
        class_names: The C names in id order.
        inference: Windows, averages and refinement; None: a single pass of the whole image.
        bit_depth: As of :class:`.images.Photographs`, for :meth:`predict_bytes`.
        channels: B, the channels of an image; three are RGB.
        classes: The classes with the colours of predicted masks; None: VOC's colours.
    """

    device: Any = "cpu"
    """Where the network lies."""

    def __init__(
        self,
        network: Network,
        arrays: Arrays,
        class_names: Sequence[str],
        inference: Inference | None = None,
        bit_depth: int | None = 16,
        channels: int = RGB,
        classes: Classes | None = None,
    ) -> None:
        self._network = network
        self.arrays = arrays
        self.class_names = tuple(class_names)
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
        mask = self._empty_mask(image)
        confidence: Any = 0.0
        with self._running():
            for place, ids, top in self._parts(image):
                mask[place] = ids
                confidence += self.arrays.total(top)
            return Prediction(self.arrays.fetch(mask), float(confidence / prod(mask.shape)))

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask of :meth:`predict`, without the cost of the confidence."""
        return self.arrays.fetch(self.predict_ids(image))

    def predict_ids(self, image: NDArray[np.uint8]) -> Any:
        """The mask of :meth:`predict_mask`, uint8 (H, W), left on the device."""
        mask = self._empty_mask(image)
        with self._running():
            for place, ids, _ in self._parts(image, with_probability=False):
                mask[place] = ids
        return mask

    def predict_tensors(self, image: NDArray[np.uint8]) -> tuple[Any, Any]:
        """The mask of :meth:`predict` and the probability of every pixel's class.

        Both are arrays of the network's library, left on the device.

        Returns:
            The mask, uint8 (H, W), and the top class's probability, float32 (H, W), 1/C..1.
        """
        mask = self._empty_mask(image)
        probability = self.arrays.empty(image.shape[:2], np.float32)
        with self._running():
            for place, ids, top in self._parts(image):
                mask[place] = ids
                probability[place] = top
        return mask, probability

    def predict_probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of every class at every pixel, float32 (C, H, W), for :meth:`predict`."""
        self._check(image)
        found = np.empty((len(self.class_names), *image.shape[:2]), np.float32)
        with self._running():
            strips = self._strips(image)
            if strips is None:
                logits = self._logits(image)
                require_finite(self.arrays.all_finite(self.arrays.largest(logits)[0]))
                found[:] = self.arrays.fetch(self.arrays.softmax(logits))
            else:
                for rows, columns, probabilities in strips:
                    found[:, rows, columns] = self.arrays.fetch(probabilities)
        return found

    def batch_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (N, C, H, W) of images uint8 (N, B, H, W), as the network gives them."""
        with self._running():
            return self.arrays.fetch(self._network(self.arrays.send(images)))

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
    ) -> Iterator[tuple[tuple[slice, slice], Any, Any]]:
        """Rows and columns, class ids (h, w) and their probabilities (h, w) of all parts.

        Without `with_probability` the last array has no meaning.
        """
        strips = self._strips(image)
        if strips is not None:
            for rows, columns, probabilities in strips:
                top, ids = self.arrays.largest(probabilities)
                yield (rows, columns), ids, top
            return
        logits = self._logits(image)
        top, ids = self.arrays.largest(logits)
        # A maximum is NaN if any value of it is NaN.
        require_finite(self.arrays.all_finite(top))
        if with_probability:
            top = self.arrays.top_probability(logits, top)
        yield (slice(None), slice(None)), ids, top

    def _strips(self, image: NDArray[np.uint8]) -> Iterator[Strip] | None:
        """The parts of an image; None if a single pass of the whole image is the prediction."""
        if self.inference is None or self.inference.is_plain(*image.shape[:2]):
            return None
        return self.inference.strips(image, self._run, self.arrays)

    def _logits(self, image: NDArray[np.uint8]) -> Any:
        """Logits of shape (C, H, W), float32."""
        # A copy, because torch does not take the store's read-only views.
        return self._run(as_batch(self.arrays.send(np.array(image, order="C"))))

    def _run(self, pixels: Any) -> Any:
        """Logits (C, h, w), float32, of pixels (1, B, h, w)."""
        logits = self._network(pixels)
        expected = (1, len(self.class_names), *pixels.shape[2:])
        if tuple(logits.shape) != expected:
            raise SegopsError(
                f"The network returns logits of shape {tuple(logits.shape)}; expected {expected}, "
                f"one channel for each of {', '.join(self.class_names)}."
            )
        return logits[0]

    def _running(self) -> AbstractContextManager[None]:
        """What the library needs around a prediction."""
        return nullcontext()

    def _empty_mask(self, image: NDArray[np.uint8]) -> Any:
        self._check(image)
        return self.arrays.empty(image.shape[:2], np.uint8)

    def _check(self, image: NDArray[np.uint8]) -> None:
        shaped = image.ndim == 3 and image.shape[2] == self.channels
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise ValueError(
                f"image is {image.dtype} of shape {image.shape}; expected uint8 of "
                f"(H, W, {self.channels})"
            )


def require_finite(finite: bool) -> None:
    """Raise a SegopsError if the output of a network is not finite."""
    if not finite:
        raise SegopsError(
            "The network's output is not finite: its weights are broken. Train it anew."
        )
