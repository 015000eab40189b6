"""Kind and number of devices, without importing Fabric: the starter of the ranks needs both."""

from __future__ import annotations

from typing import Literal

import torch

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError

Device = Literal["cpu", "cuda"]


def choose_device(wanted: str) -> Device:
    """`cpu` or `cuda`, by ``train.device``; `auto` is the GPU if there is one.

    Raises:
        SegopsError: `cuda` is asked for and there is no GPU.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise SegopsError(
            "train.device: cuda, but torch sees no GPU here. Set it to auto or cpu, or check the "
            "driver with nvidia-smi."
        )
    return "cpu"


def choose_world(params: TrainParams, device: Device) -> tuple[int, int]:
    """Devices of each machine and machines, by ``train.devices`` and ``train.nodes``.

    Raises:
        SegopsError: This machine has fewer GPUs, or the batch cannot be divided among the devices.
    """
    present = torch.cuda.device_count() if device == "cuda" else None
    devices = (present or 1) if params.devices == "auto" else params.devices
    if present is not None and devices > present:
        raise SegopsError(
            f"train.devices: {devices}, but torch sees {present} GPU(s) here. Set it to {present} "
            "or auto, or check CUDA_VISIBLE_DEVICES."
        )
    parts = params.accumulate * devices * params.nodes
    if params.batch_size % parts:
        nearest = [n for n in (params.batch_size // parts * parts,) if n]
        nearest.append(-(-params.batch_size // parts) * parts)
        raise SegopsError(
            f"train.batch_size: {params.batch_size} cannot be divided into train.accumulate x "
            f"train.devices x train.nodes = {params.accumulate} x {devices} x {params.nodes} equal "
            f"parts. Nearest: {' or '.join(map(str, nearest))}."
        )
    return devices, params.nodes
