"""How the device computes: its precision, and what makes it compute the same bits every time."""

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
    """As ``train.precision`` says; `auto` is bf16 on a device that gains by it, else fp32.

    Those are GPUs that compute it natively and CPUs with AMX. Without AMX a CPU's instructions for
    bf16 are slower than those for fp32. It is a fixed rule, as what a stopwatch says of a loaded
    machine would be another precision, and so other weights, the next time.
    """
    for known in get_args(Precision):
        if wanted == known:
            return cast(Precision, known)
    if device == "cuda":
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        gains = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return "bf16" if gains else "fp32"


def can_compute(precision: str, device: Device) -> bool:
    """Whether the device computes in a precision, if slowly; False for what is no precision."""
    if precision == "bf16" and device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return precision in get_args(Precision)


def choose_threads(hardware: HardwareParams) -> int:
    """CPU threads of torch: as given, else one per core that this process may use.

    The ranks of a machine divide the cores among them.
    """
    if hardware.threads is not None:
        return hardware.threads
    return max(1, cores() // local_ranks())


def choose_workers(hardware: HardwareParams, device: Device) -> int:
    """Processes that make samples: as given; else none on the CPU, where they would only take the
    cores that the network computes on.
    """  # noqa: D205
    if hardware.workers is not None:
        return hardware.workers
    return 0 if device == "cpu" else max(1, hardware.worker_count // local_ranks())


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
    """Devices and precision that ``params.yaml`` asks for; with several, this process is a rank.

    Raises:
        SegopsError: The device is not there, or this process was not started as a rank.
    """
    device = choose_device(params.device)
    precision = choose_precision(params.precision, device)
    devices, nodes = choose_world(params, device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # we say it ourselves
    several = devices * nodes > 1
    if several:
        require_ranks(devices, nodes)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        # Buffers are shared before they are read, see `ranks.share_statistics`.
        strategy=DDPStrategy(forward_sync_buffers=False) if several else "auto",
        # A plug-in, because by name Fabric replaces fp16 on the CPU by bf16.
        plugins=None if precision == "fp32" else MixedPrecision(_FABRIC[precision], device),
    )
    if several:
        fabric.launch()
    return fabric, device, precision


def scaler_of(fabric: Any) -> torch.amp.GradScaler | None:
    """The scaler of gradients, which fp16 alone has."""
    return getattr(fabric.strategy.precision, "scaler", None)


def compiled(network: nn.Module) -> nn.Module:
    """The network, compiled for fixed shapes; its own state dict and calls stay as they are.

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
    """Deterministic kernels and a fixed number of threads, for a while.

    On CUDA an operation that has no deterministic kernel only warns, because some architectures
    have one; on the CPU it raises.

    Args:
        device: Where the training runs.
        threads: CPU threads of torch.
        deterministic: Take deterministic kernels; false: the quickest, tried out by cuDNN.

    Yields:
        The operations that had no deterministic kernel so far, by torch's name.

    Raises:
        SegopsError: On the CPU, one has none.
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
    # Filling what is about to be overwritten costs time and changes no result.
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
    """Turn torch's warnings of operations without a deterministic kernel into one line each."""
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
