"""Loads an export for OpenVINO. Runs inside the export, as part of its code."""

from __future__ import annotations

from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SegopsError
from ..opener import THREADS
from ..predictor import Predictor
from .build import predictor


def load(model: dict[str, Any], network: bytes, weights: bytes, device: str) -> Predictor:
    """Build the predictor.

    Args:
        model: Content of ``model.json``; with `threads`, the network runs on so many.
        network: Content of ``model.xml``.
        weights: Content of ``model.bin``.
        device: As of :func:`.build.predictor`, like other errors.

    Raises:
        SegopsError: OpenVINO is missing or does not take the network.
    """
    try:
        import openvino
    except ImportError:
        raise SegopsError(
            "openvino is not installed, which runs this export: `pip install openvino`."
        ) from None
    # In float32 as the network was trained: some processors would compute in bfloat16.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if model.get(THREADS):
        options["INFERENCE_NUM_THREADS"] = model[THREADS]
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(network, weights), "CPU", options)
    except RuntimeError as error:
        raise SegopsError(f"model.xml: OpenVINO does not take it: {error}") from error
    own = local()  # a request serves one thread at a time

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer([images])
        return np.array(found[compiled.output(0)])

    return predictor(model, run, device)
