"""The processor, the GPU and its driver of this machine."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

CPU = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
DRIVER = Path("/proc/driver/nvidia/version")


@cache
def parts() -> dict[str, str]:
    """Return names of `cpu` and `gpu` (NVIDIA's first) and the version of its `driver`, if known.

    The kernel's files are read, so neither torch nor the GPU is woken.
    """
    cpu = _found(CPU, r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()
    driver = _found(DRIVER, r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")
    cards = sorted(GPUS.glob("*/information"))
    gpu = _found(cards[0], r"^Model:\s*(.+)$") if cards else ""
    known = (("cpu", cpu), ("gpu", gpu), ("driver", driver))
    return {name: text for name, text in known if text}


def _found(path: Path, pattern: str) -> str:
    """Return the first group of a pattern in a file; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1).strip() if match else ""
