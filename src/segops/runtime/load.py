"""Builds the predictor from a bundle's files. Runs inside the bundle, as part of its code."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch

from .classes import Classes
from .errors import SegopsError
from .inference import Inference
from .networks.zoo import ModelSpec, build
from .opener import BIT_DEPTH
from .predict_settings import PredictSettings
from .torch_predictor import TorchPredictor


def load(model: dict[str, Any], weights: bytes, device: str) -> TorchPredictor:
    """Build the network and load the weights.

    The signature never changes: every version of segops calls it in bundles of every other version.

    Args:
        model: Content of the bundle's ``model.json``. Without `predict`, as in older bundles,
            images are predicted whole.
        weights: Content of the bundle's ``weights.safetensors``.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.

    Raises:
        SegopsError: The device is missing, the weights do not fit the network, or `predict` holds
            a key or value that this code does not know.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SegopsError(f"device {device}: there is no usable GPU. Set it to auto or cpu.")
    inference = Inference(PredictSettings.of_bundle(model.get("predict") or {}))
    bit_depth = model.get(BIT_DEPTH, 16)
    # Building draws random initial weights; the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        spec = ModelSpec(**model["spec"])
        network = build(spec)
    try:
        network.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise SegopsError(f"weights.safetensors does not fit model.json: {error}") from error
    return TorchPredictor(
        network.eval().to(device),
        model["class_names"],
        device,
        inference,
        bit_depth,
        spec.channels,
        Classes.of_model(model),
    )
