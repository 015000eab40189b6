"""Names what predicts: the same machine, device and number of threads give the same bits."""

from __future__ import annotations

import platform
import re
import socket
from pathlib import Path

import torch

PROCESSORS = Path("/proc/cpuinfo")


def describe(device: torch.device | str, threads: int) -> dict[str, str | int]:
    """Return host, processor, torch's version, device and number of threads.

    Args:
        device: Where the network lies.
        threads: CPU threads that predict an image.
    """
    place = torch.device(device)
    return {
        "host": socket.gethostname(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "threads": threads,
    }


def _processor() -> str:
    known = PROCESSORS.read_text(errors="replace") if PROCESSORS.is_file() else ""
    named = re.search(r"^model.name\s*:\s*(.+)$", known, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
