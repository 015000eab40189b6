"""The predictor around a network in another form than torch's. Nothing here imports torch.

The network in a file takes float32 images (N, B, H, W) in 0..255 of any size and returns float32
logits (N, C, H, W): normalisation, padding to the stride and cropping are part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import NumpyArrays
from ..bands import channels_of
from ..classes import Classes
from ..errors import SegopsError
from ..inference import Inference
from ..opener import BIT_DEPTH
from ..predict_settings import PredictSettings
from ..predictor import Predictor

IMAGES = "images"
"""Name of the network's input."""
LOGITS = "logits"
"""Name of its output."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Logits of contiguous images."""


def predictor(model: dict[str, Any], run: Run, device: str) -> Predictor:
    """Build the predictor of an export.

    Args:
        model: Content of its ``model.json``.
        run: Calls the network.
        device: `auto` or `cpu`: exports run on the CPU.

    Raises:
        SegopsError: Another device is asked for, or `predict` holds a key or value that this code
            does not know or an export cannot do.
    """
    if device not in ("auto", "cpu"):
        raise SegopsError(f"device {device}: an export runs on the CPU. Set it to auto or cpu.")
    settings = PredictSettings.of_bundle(model.get("predict") or {})
    if settings.crf.iterations:
        raise SegopsError(
            f"predict.crf.iterations is {settings.crf.iterations}: the dense CRF takes torch, "
            "which an export does without. Set it to 0, or use the model itself."
        )

    def network(pixels: NDArray[Any]) -> NDArray[np.float32]:
        return run(np.ascontiguousarray(pixels, np.float32))

    return Predictor(
        network,
        NumpyArrays(),
        model["class_names"],
        Inference(settings),
        model.get(BIT_DEPTH, 16),
        channels_of(model),
        Classes.of_model(model),
    )
