"""The device, its precision, and what makes it compute the same bits every time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from segops.errors import SegopsError
from segops.params import HardwareParams, TrainParams

Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
NARROW = 16
_settings: Any = torch.utils.deterministic


def choose_device(wanted: str) -> Device:
    """`cpu` or `cuda`, as ``train.device`` says; `auto` is the GPU if there is one.

    Raises:
        SegopsError: `cuda` is asked for and there is none.
    """
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise SegopsError(
            "train.device: cuda, but torch sees no GPU here. Set it to auto or cpu, or check the "
            "driver with nvidia-smi."
        )
    return "cpu"


def choose_precision(wanted: str, device: Device) -> Precision:
    """`fp32` or `bf16`, as ``train.precision`` says; `auto` is bf16 where it is native."""
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        native = bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    return "bf16" if native else "fp32"


def choose_threads(hardware: HardwareParams) -> int:
    """CPU threads of torch: as given, else one per core that this process may use."""
    if hardware.threads is not None:
        return hardware.threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(hardware: HardwareParams, device: Device) -> int:
    """Processes that make samples: as given; else none on the CPU, where they would only take the
    cores that the network computes on.
    """  # noqa: D205
    if hardware.workers is None and device == "cpu":
        return 0
    return hardware.worker_count


def choose_layout(params: TrainParams, network: nn.Module, device: Device) -> torch.memory_format:
    """The memory format of images and weights, as ``train.channels_last`` says.

    Where the CPU's kernels cannot be trusted with it, the ordinary format is taken: torch 2.15
    writes beyond a buffer in the backward pass of a strided 1x1 convolution of fewer than 16
    channels (MobileOne begins with one), which ends the process or spoils its numbers.
    """
    broken = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < NARROW
    ]
    if not params.channels_last or (device == "cpu" and broken):
        return torch.contiguous_format
    return torch.channels_last


def build_fabric(params: TrainParams) -> tuple[Fabric, Device, Precision]:
    """One device of Fabric's, in the precision that ``params.yaml`` asks for.

    Raises:
        SegopsError: The device is not there.
    """
    device = choose_device(params.device)
    precision = choose_precision(params.precision, device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # we say it ourselves
    fabric = Fabric(
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    return fabric, device, precision


@contextmanager
def reproducible(device: Device, threads: int) -> Iterator[None]:
    """Deterministic kernels and a fixed number of threads, for a while.

    On CUDA an operation that has no deterministic kernel only warns: some architectures have one.
    """
    if device == "cuda":  # read when CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _settings.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    # Filling what is about to be overwritten costs time and changes no result.
    _settings.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        _settings.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark = before[4]
