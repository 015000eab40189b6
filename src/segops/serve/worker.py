"""A worker process: opens models and predicts one image at a time.

The server starts it as ``python -m segops.serve.worker DESCRIPTOR LIBRARY DEVICE THREADS`` with its
end of a socket pair; the library, `torch` or `none`, is imported at once. An image has so many
threads on a CPU. It answers one message after another and ends when the server's end is closed.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from segops import faults, logs
from segops.predict.bundle import TORCH
from segops.runtime.bands import RGB
from segops.runtime.errors import SegopsError
from segops.serve import wire
from segops.serve.answer import Model
from segops.serve.errors import RequestError
from segops.serve.wanted import PNG, Wanted

SMOKE_SIDE = 96
"""Side of the synthetic image of the smoke test, in pixels."""
Answer = tuple[dict[str, Any], list[bytes]]
log = logging.getLogger("segops")


class Worker:
    """Answers the server's messages.

    Args:
        device: Device of the networks.
        threads: Threads of an image; None: as the libraries choose.
    """

    def __init__(self, device: str, threads: int | None) -> None:
        self._device, self._threads = device, threads
        self._models: dict[str, Model] = {}
        self._open = ExitStack()
        self._tasks: dict[str, Callable[[dict[str, Any], list[bytes]], Answer]] = {
            "load": self._load,
            "predict": self._predict,
            "photograph": self._photograph,
        }

    def answer(self, head: dict[str, Any], parts: list[bytes]) -> Answer:
        """Answer a message.

        Args:
            head: The message; its key `do` says what to do.
            parts: Bytes that belong to it.

        Returns:
            The answer and its bytes. An answer with the key `error` holds status and message.
        """
        try:
            return self._tasks[head["do"]](head, parts)
        except RequestError as error:
            return {"error": error.body()}, []
        except SegopsError as error:
            return {"error": {"status": 500, "message": str(error)}}, []
        except Exception as error:
            if faults.is_shortage(error) or isinstance(error, MemoryError):
                message = "This image does not fit into the server's memory; make it smaller."
                return {"error": {"status": 503, "message": message}}, []
            log.exception("An image could not be predicted.")
            message = "The server failed on this image; its log says why."
            return {"error": {"status": 500, "message": message}}, []

    def _load(self, head: dict[str, Any], _: list[bytes]) -> Answer:
        """Open a model under a key, and let it predict a synthetic image."""
        from segops.predict.bundle import load_bundle

        predictor = load_bundle(
            Path(head["directory"]), self._device, head["digest"], threads=self._threads
        )
        if predictor.runtime == TORCH:  # where it was not imported at once
            _set_threads_of_torch(self._threads)
        limit = min(predictor.max_pixels, head["max_pixels"])
        model = Model(predictor, limit)
        _smoke(model)
        if head["log"] is not None:
            from segops.predict.log import PredictionLog
            from segops.predict.observe import observing

            observed = PredictionLog(Path(head["log"]), predictor.bundle_digest)
            observe = self._open.enter_context(observing(predictor))
            model = Model(predictor, limit, observed, observe)
        self._models[head["key"]] = model
        return {}, []

    def _predict(self, head: dict[str, Any], parts: list[bytes]) -> Answer:
        """Predict an image."""
        model = self._models[head["key"]]
        confidence, content = model.answer(parts[0], head["name"], Wanted(**head["wanted"]))
        return {"confidence": confidence}, [content]

    def _photograph(self, head: dict[str, Any], parts: list[bytes]) -> Answer:
        """Check an image for a mark; see :func:`segops.serve.marks.photograph`."""
        from segops.serve.marks import photograph

        suffix, content, (width, height) = photograph(
            self._models[head["key"]], parts[0], head["name"]
        )
        return {"suffix": suffix, "width": width, "height": height}, [content]


def _smoke(model: Model) -> None:
    """Check that a model predicts a synthetic image as a request's.

    Raises:
        SegopsError: It does not.
    """
    channels = model.predictor.channels
    pixels = np.random.default_rng(0).integers(
        0, 256, (SMOKE_SIDE, SMOKE_SIDE + 1, channels), np.uint8
    )
    if channels == RGB:
        from PIL import Image

        from segops.runtime.masks import decode_mask

        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        confidence, content = model.answer(buffer.getvalue(), "the synthetic image", Wanted(PNG))
        mask = decode_mask(content, "the mask of the synthetic image")
    else:
        prediction = model.predictor.predict(pixels)
        mask, confidence = prediction.mask, prediction.confidence
    classes = len(model.predictor.class_names)
    if mask.shape != pixels.shape[:2] or mask.max() >= classes or not 0 < confidence <= 1 + 1e-6:
        raise SegopsError(
            f"The smoke test failed: a mask of shape {mask.shape} with ids up to {mask.max()} and "
            f"confidence {confidence}; expected {pixels.shape[:2]}, ids below {classes}, and a "
            "confidence within 0 to 1."
        )


def main() -> None:
    """Answer messages until the server's end of the connection is closed."""
    descriptor, library, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    threads = int(sys.argv[4]) if device == "cpu" else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its workers
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if logs.wants_json():
        logs.use_json()
    log.setLevel(logging.INFO)
    _prepare(library, threads)
    worker = Worker(device, threads)
    with socket.socket(fileno=descriptor) as connection:
        while (message := wire.receive(connection)) is not None:
            head, parts = worker.answer(*message)
            del message
            try:
                wire.send(connection, head, parts)
            except OSError:
                break
    os._exit(0)  # at once: what libraries do at the end of a process takes time


def _prepare(library: str, threads: int | None) -> None:
    """Import what opening a model needs while the server finds the model."""
    gc.disable()  # collections during imports cost time and free little
    import cv2

    cv2.setNumThreads(1)
    if library == "torch":
        _set_threads_of_torch(threads)
        # A bundle brings its own code, which imports the same libraries.
        import segops.runtime.load  # noqa: F401
    gc.enable()


def _set_threads_of_torch(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
