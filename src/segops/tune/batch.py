"""Finds the largest batch that fits into memory, and measures the speed of each size."""

from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from segops.params.file import Params
from segops.runtime.errors import SegopsError
from segops.train.devices import choose_device
from segops.tune.probe import OUT_OF_MEMORY, USABLE, ProbeResult
from segops.tune.setup import device_count, open_store, scratch_directory

AS_FAST = 0.97
"""The suggestion is the smallest batch that reaches this share of the best speed."""
FINENESS = 16
"""The search ends when the largest batch is known to 1/16 of its size."""
TOO_MUCH = 1.2
"""A batch that is predicted to take this multiple of the limit is not tried."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class BatchResult:
    """The measured batch sizes.

    Attributes:
        attempts: Memory and speed by batch size on one device, rising; None: it did not fit.
        devices: Number of devices of a training.
        limit: Limit of memory on the CPU in bytes; None on a GPU, whose memory is the limit.
    """

    attempts: dict[int, ProbeResult | None]
    devices: int
    limit: int | None

    @property
    def largest(self) -> int:
        """The largest batch of a whole step that fits."""
        return self.devices * max(self._speeds)

    @property
    def suggestion(self) -> int:
        """The smallest batch of a whole step that is about as fast as any.

        A larger batch takes more memory, makes fewer steps per epoch and is not faster.
        """
        enough = AS_FAST * max(self._speeds.values())
        return self.devices * min(size for size, speed in self._speeds.items() if speed >= enough)

    @property
    def _speeds(self) -> dict[int, float]:
        measured = self.attempts.items()
        return {size: result.images_per_second for size, result in measured if result is not None}


def find_batch_size(
    root: Path, settings: Params, most: int = 1024, memory: int | None = None
) -> BatchResult:
    """Try batch sizes, each in a separate process, with the workspace's network and images.

    `most` is the largest batch per device to try. `memory` are the bytes that a batch may take on
    the CPU; default: 90 % of the free memory.

    Raises:
        SegopsError: The training cannot be built, or not even the smallest batch fits.
    """
    open_store(root)
    on_cpu = choose_device(settings.train.device) == "cpu"
    limit = (memory or int(USABLE * free_memory())) if on_cpu else None
    with scratch_directory(root) as scratch:

        def attempt(size: int) -> ProbeResult | None:
            measured = _attempt(root, scratch, size, limit)
            if measured is None:
                log.info("batch size %d: does not fit", size)
            else:
                speed, gib = measured.images_per_second, measured.memory / 2**30
                log.info("batch size %d: %.1f images/s, %.2f GiB", size, speed, gib)
            return measured

        attempts = search(attempt, settings.train.accumulate, most, limit)
    if not any(attempts.values()):
        raise SegopsError(
            f"Not even a batch of {min(attempts)} fits into memory. Try a smaller "
            "augment.crop or model.encoder"
            + ("." if limit is None else f", or free memory: it may take {limit / 2**30:.1f} GiB.")
        )
    return BatchResult(attempts, device_count(settings.train), limit)


def search(
    attempt: Callable[[int], ProbeResult | None], unit: int, most: int, limit: int | None = None
) -> dict[int, ProbeResult | None]:
    """Double the batch until it does not fit, then bisect.

    Sizes are multiples of `unit`, at most `most`. `attempt` tries a size; None: it does not fit.
    A size is not tried that takes far more than `limit` bytes if memory grows linearly.

    Returns:
        The results by size, rising, at least one.
    """
    done: dict[int, ProbeResult | None] = {}

    def is_hopeless(size: int) -> bool:
        fitting = [(one, result.memory) for one, result in done.items() if result is not None]
        if limit is None or len(fitting) < 2:
            return False
        (small, less), (large, more) = fitting[-2:]  # they rise
        return more + (more - less) / (large - small) * (size - large) > TOO_MUCH * limit

    def fits(size: int) -> bool:
        done[size] = None if is_hopeless(size) else attempt(size)
        return done[size] is not None

    # Batch norm needs at least two images for its statistics.
    low = size = unit * math.ceil(2 / unit)
    while fits(size):
        low, size = size, 2 * size
        if size > most:
            return done
    high = size
    while high - low > max(unit, low // FINENESS):
        size = low + max(unit, (high - low) // 2 // unit * unit)
        low, high = (size, high) if fits(size) else (low, size)
    return dict(sorted(done.items()))


def free_memory() -> int:
    """The bytes that a process may still take: of the machine, or of its control group."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        inactive = (group / "memory.stat").read_text().partition("inactive_file ")[2].split()[0]
        return min(free, int(limit) - int(used) + int(inactive))
    except (OSError, ValueError, IndexError):  # no control group, or no limit ("max")
        return free


def _attempt(root: Path, scratch: Path, size: int, limit: int | None) -> ProbeResult | None:
    command = [sys.executable, "-m", "segops.tune.probe", str(root), str(scratch), str(size)]
    command += [] if limit is None else [str(limit)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode in (OUT_OF_MEMORY, -signal.SIGKILL):
        return None
    result = scratch / f"{size}.json"
    if not result.is_file():
        raise SegopsError(
            f"batch size {size}: the attempt ended with status {done.returncode}:\n{done.stderr}"
        )
    written = json.loads(result.read_text())
    if "error" in written:
        raise SegopsError(written["error"])
    return ProbeResult(**written)
