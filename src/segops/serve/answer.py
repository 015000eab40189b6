"""A worker decodes an image, predicts it, and encodes what the request asks for.

This module runs in a worker. torch is imported by what needs it, so that a worker of another
runtime needs no torch.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops.predict.bundle import TORCH, BundledPredictor
from segops.predict.outputs import draw_overlay, encode_jpeg
from segops.runtime import signatures
from segops.runtime.bands import decode_consumer_bands, false_colour, stored_extent
from segops.runtime.errors import SegopsError
from segops.runtime.file_kinds import describe
from segops.runtime.images import CONSUMER_FORMATS
from segops.runtime.masks import encode_mask
from segops.serve.errors import RequestError, no_class
from segops.serve.polygons import polygons
from segops.serve.wanted import JPEG, NPY, PNG, Wanted, legend

if TYPE_CHECKING:
    from segops.predict.log import PredictionLog
    from segops.predict.observe import Observe
    from segops.runtime.predictor import Prediction

LARGEST_ANSWER = 256 << 20
"""Bytes of the probabilities of an image; the worker holds three times as many."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Model:
    """An open model of a worker.

    Attributes:
        predictor: Predicts.
        max_pixels: Images of more pixels are refused before they are decoded.
        log: The prediction log, where one is kept.
        observe: Predicts and observes for the log.
    """

    predictor: BundledPredictor
    max_pixels: int
    log: PredictionLog | None = None
    observe: Observe | None = None

    def answer(self, content: bytes, name: str, wanted: Wanted) -> tuple[float, bytes]:
        """Predict an image and encode the answer.

        Args:
            content: The image's bytes.
            name: Its name in messages and in the answer.
            wanted: What the request asks for.

        Returns:
            The confidence, and the bytes of the answer in the form that is asked for.

        Raises:
            RequestError: The image cannot be decoded or predicted.
        """
        image = self.decoded(content, name)
        self._require_explainable(wanted)
        if wanted.form == NPY:
            return self._probabilities(image, name)
        top: NDArray[np.float32] | None = None
        if wanted.confidence_map and self.observe is None:
            mask, top = self.predictor.predict_tensors(image)
            confidence = float(top.mean(dtype=np.float64))
        else:
            prediction = self._predicted(image, name)
            mask, confidence = prediction.mask, prediction.confidence
            if wanted.confidence_map:
                top = self.predictor.predict_tensors(image)[1]
        if wanted.form == PNG:
            return confidence, self._png(mask)
        if wanted.form == JPEG:
            drawn = draw_overlay(false_colour(image), mask, self.predictor.classes)
            return confidence, encode_jpeg(drawn)
        entry = self._entry(name, mask, confidence)
        if wanted.mask:
            entry["mask"] = _base64(self._png(mask))
        if wanted.polygons:
            entry["polygons"] = polygons(mask, self.predictor.classes)
        if top is not None:
            entry["confidence_map"] = _base64(_grey(top))
        if wanted.explain is not None:
            entry["activation"] = self._activation(image, mask, wanted.explain)
        return confidence, json.dumps(entry).encode()

    def decoded(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """Decode an image, uint8 (H, W, C), as `segops predict` does.

        Raises:
            RequestError: It is no image (415), has too many pixels by its header (413), or cannot
                be decoded for this model (422).
        """
        start = content[: signatures.LENGTH]
        if signatures.image_format(start) is None:
            raise RequestError(
                415,
                f"{name}: not an image: {describe(start)}. Send one of "
                f"{', '.join(CONSUMER_FORMATS)}.",
            )
        try:
            width, height = stored_extent(BytesIO(content)) or (0, 0)
            if width * height > self.max_pixels:
                raise RequestError(
                    413,
                    f"{name}: {width} x {height} pixels; this server takes at most "
                    f"{self.max_pixels:,}. Make the image smaller.",
                )
            depth, channels = self.predictor.bit_depth, self.predictor.channels
            return decode_consumer_bands(content, name, self.max_pixels, channels, depth)
        except SegopsError as error:
            raise RequestError(422, str(error)) from None

    def _predicted(self, image: NDArray[np.uint8], name: str) -> Prediction:
        if self.observe is None or self.log is None:
            return self.predictor.predict(image)
        prediction, observation = self.observe(image)
        try:
            self.log.add(observation, name)
        except OSError as error:  # the client gets its mask all the same
            log.error("The prediction log lacks a line: %s.", error.strerror)
        return prediction

    def _probabilities(self, image: NDArray[np.uint8], name: str) -> tuple[float, bytes]:
        height, width = image.shape[:2]
        size = 2 * len(self.predictor.class_names) * width * height
        if size > LARGEST_ANSWER:
            raise RequestError(
                413,
                f"The probabilities would take {size >> 20} MiB; this server sends at most "
                f"{LARGEST_ANSWER >> 20}. Make the image smaller, or ask for the mask.",
            )
        if self.observe is not None:
            self._predicted(image, name)
        found = self.predictor.predict_probabilities(image)
        confidence = float(found.max(axis=0).mean(dtype=np.float64))
        buffer = BytesIO()
        np.save(buffer, found.astype(np.float16), allow_pickle=False)
        return confidence, buffer.getvalue()

    def _entry(self, name: str, mask: NDArray[np.uint8], confidence: float) -> dict[str, Any]:
        height, width = mask.shape
        classes = self.predictor.classes
        counts = np.bincount(mask.ravel(), minlength=len(classes.names))
        return {
            "name": name,
            "width": width,
            "height": height,
            "confidence": confidence,
            "classes": [
                {**one, "pixels": int(pixels), "share": int(pixels) / mask.size}
                for one, pixels in zip(legend(classes), counts, strict=True)
            ],
        }

    def _png(self, mask: NDArray[np.uint8]) -> bytes:
        return encode_mask(mask, self.predictor.classes.palette())

    def _require_explainable(self, wanted: Wanted) -> None:
        name = wanted.explain
        if name is None:
            return
        if name not in self.predictor.class_names:
            raise no_class(f"explain={name}")
        if self.predictor.runtime != TORCH:
            raise RequestError(
                501,
                f"Only torch explains a class, and this server runs {self.predictor.runtime}; "
                "`segops serve --runtime torch` explains the classes of a registered model.",
            )

    def _activation(self, image: NDArray[np.uint8], mask: NDArray[np.uint8], name: str) -> str:
        from segops.predict.explain import explanation

        found = explanation(self.predictor, image, mask, name)
        assert found is not None  # only `auto` may find nothing
        return _base64(_grey(found[1]))


def _grey(values: NDArray[np.float32]) -> bytes:
    """Encode values in 0..1, (H, W), as a grey PNG of 8 bits: 255 is 1."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
