"""Builds the predictor from what a bundle holds. Runs inside the bundle, with its own code."""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch

from ..errors import SegopsError
from ..models.zoo import ModelSpec, build
from .inference import Inference
from .predictor import Predictor
from .settings import InferenceSettings


def load(model: dict[str, Any], weights: bytes, device: str) -> Predictor:
    """Build the network and put the weights in.

    The signature is what every version of segops may rely on for every bundle ever written.

    Args:
        model: Content of the bundle's ``model.json``. Where it lacks `predict`, as older
            bundles do, images are predicted plainly.
        weights: Content of the bundle's ``weights.safetensors``.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.

    Returns:
        The predictor, its network in evaluation mode on the device.

    Raises:
        SegopsError: The device is not there, the weights do not fit the network, or `predict`
            says what this code does not know.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SegopsError(f"device {device}: there is no usable GPU. Set it to auto or cpu.")
    inference = Inference(InferenceSettings.from_dict(model.get("predict") or {}))
    # Building draws random initial weights; the caller's random state is not ours to move.
    with torch.random.fork_rng(devices=[]):
        network = build(ModelSpec(**model["spec"]), encoder_weights=None)
    try:
        network.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise SegopsError(f"weights.safetensors does not fit model.json: {error}") from error
    return Predictor(network.eval().to(device), model["class_names"], device, inference)
