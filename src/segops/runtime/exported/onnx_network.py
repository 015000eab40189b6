"""Loads an export for ONNX Runtime. Runs inside the export, as part of its code."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SegopsError
from ..opener import THREADS
from ..predictor import Predictor
from .build import IMAGES, LOGITS, predictor

_ERRORS_ONLY = 3


def load(model: dict[str, Any], network: bytes, device: str) -> Predictor:
    """Build the predictor.

    Args:
        model: Content of ``model.json``; with `threads`, the session has so many.
        network: Content of ``model.onnx``.
        device: As of :func:`.build.predictor`, like other errors.

    Raises:
        SegopsError: ONNX Runtime is missing or does not take the network.
    """
    try:
        import onnxruntime
    except ImportError:
        raise SegopsError(
            "onnxruntime is not installed, which runs this export: `pip install onnxruntime`."
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = model.get(THREADS) or 0
    options.log_severity_level = _ERRORS_ONLY
    # Patterns of memory are kept for each size of image: a server would grow without end.
    options.enable_mem_pattern = False
    # Weights outside of the network's file have no digest; by default ONNX Runtime would read them
    # from the current directory. There is nothing below this path.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise SegopsError(f"model.onnx: ONNX Runtime does not take it: {error}") from error

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = session.run([LOGITS], {IMAGES: images})
        return np.asarray(logits)

    return predictor(model, run, device)
