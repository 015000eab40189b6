"""Device, precision, threads and deterministic kernels of a training."""

from __future__ import annotations

import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from segops.params.hardware import HardwareParams
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.threads import cores
from segops.train.devices import Device, choose_device, choose_world
from segops.train.launch import local_ranks, require_ranks

Precision = Literal["fp32", "bf16", "fp16"]
NARROW = 16
_FABRIC: dict[str, Literal["bf16-mixed", "16-mixed"]] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
_WITHOUT_KERNEL = re.compile(r"(\S+) does not have a deterministic implementation")
_settings: Any = torch.utils.deterministic
log = logging.getLogger("segops")


def choose_precision(wanted: str, device: Device) -> Precision:
    """The precision of ``train.precision``, with `auto` resolved.

    `auto` is bf16 on GPUs with native bf16 and on CPUs with AMX, else fp32. Without AMX a CPU
    computes bf16 slower than fp32. `auto` does not measure the speed: on a loaded machine a
    measurement could choose another precision, and so other weights, in the next run.
    """
    if wanted != "auto":
        return cast(Precision, wanted)
    if device == "cuda":
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        gains = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return "bf16" if gains else "fp32"


def can_compute(precision: str, device: Device) -> bool:
    """Whether the device supports a precision, perhaps slowly; False for an unknown name."""
    if precision == "bf16" and device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return precision in get_args(Precision)


def choose_threads(hardware: HardwareParams) -> int:
    """CPU threads of torch: ``hardware.threads``, else an equal part of the cores for each rank."""
    if hardware.threads is not None:
        return hardware.threads
    return max(1, cores() // local_ranks())


def choose_workers(hardware: HardwareParams, device: Device) -> int:
    """Processes that make samples: ``hardware.workers``, else one per core and rank on a GPU.

    The default on a CPU is none, because workers would take cores from the network.
    """
    if hardware.workers is not None:
        return hardware.workers
    return 0 if device == "cpu" else max(1, hardware.worker_count // local_ranks())


def choose_layout(params: TrainParams, network: nn.Module, device: Device) -> torch.memory_format:
    """The memory format of images and weights, by ``train.channels_last``.

    A network with a strided 1x1 convolution of fewer than 16 channels (MobileOne) has the ordinary
    format on a CPU: in the other format torch 2.15 writes beyond a buffer in the backward pass,
    which crashes the process or changes its numbers.
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
    """Devices and precision by ``params.yaml``; with several devices this process is a rank.

    Raises:
        SegopsError: The device is missing, or this process was not started as a rank.
    """
    device = choose_device(params.device)
    precision = choose_precision(params.precision, device)
    devices, nodes = choose_world(params, device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # segops logs it
    is_distributed = devices * nodes > 1
    if is_distributed:
        require_ranks(devices, nodes)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        # `ranks.share_statistics` copies the buffers before they are read.
        strategy=DDPStrategy(forward_sync_buffers=False) if is_distributed else "auto",
        # A plug-in, because Fabric replaces fp16 given by name on the CPU by bf16.
        plugins=None if precision == "fp32" else MixedPrecision(_FABRIC[precision], device),
    )
    if is_distributed:
        fabric.launch()
    return fabric, device, precision


def compiled(network: nn.Module) -> nn.Module:
    """The network, compiled for fixed shapes; the original object is not changed.

    Raises:
        SegopsError: There is no C++ compiler.
    """
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    if not any(shutil.which(name) for name in candidates if name):
        raise SegopsError(
            "train.compile: true, but torch.compile needs a C++ compiler and neither g++ nor "
            "clang++ is on the PATH (nor does CXX name one). Install one, or set it to false."
        )
    module: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]
    return module


@contextmanager
def reproducible(device: Device, threads: int, deterministic: bool = True) -> Iterator[set[str]]:
    """Set deterministic kernels and the number of threads inside the context.

    An operation without a deterministic kernel raises an error on the CPU. On CUDA it only warns,
    because some architectures contain such an operation.

    Without `deterministic` cuDNN measures the fastest kernels.

    Yields:
        The operations without a deterministic kernel so far, by torch's name.

    Raises:
        SegopsError: An operation has no deterministic kernel on the CPU.
    """
    if device == "cuda" and deterministic:  # read when CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _settings.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=device == "cuda")
    # Filling memory before it is overwritten takes time and changes no result.
    _settings.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not deterministic
    try:
        with _named_operations() as names:
            yield names
    except RuntimeError as error:
        name = _WITHOUT_KERNEL.search(str(error))
        if name is None:
            raise
        raise SegopsError(f"{_told(name[1], device)} It cannot be trained this way.") from error
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        _settings.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark = before[4]


@contextmanager
def _named_operations() -> Iterator[set[str]]:
    """Log each operation without a deterministic kernel once, in place of torch's warnings."""
    names: set[str] = set()
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        found = _WITHOUT_KERNEL.search(str(message))
        if found is None:
            show(message, category, *place, **more)
        elif found[1] not in names:
            names.add(found[1])
            log.warning("%s Two trainings may differ in their last bits.", _told(found[1], "cuda"))

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_WITHOUT_KERNEL.pattern)
        warnings.showwarning = note
        yield names


def _told(name: str, device: Device) -> str:
    return (
        f"train.deterministic: true, but torch has no deterministic {device} kernel for {name}. "
        "Choose another architecture, or set train.deterministic to false."
    )
