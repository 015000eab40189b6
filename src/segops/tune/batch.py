"""Finds the largest batch that fits into memory, and measures the speed of each size."""

from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from segops import paths
from segops.params.file import Params
from segops.runtime.errors import SegopsError
from segops.train.devices import choose_device
from segops.tune.probe import OUT_OF_MEMORY, USABLE, ProbeResult
from segops.tune.setup import device_count, open_store

AS_FAST = 0.97
"""The suggestion is the smallest batch that reaches this share of the best speed."""
FINENESS = 16
"""The search ends when the largest batch is known to 1/16 of its size."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Attempt:
    """A batch size that was tried.

    Attributes:
        batch_size: Images per step, on one device.
        measured: Memory and speed; None where the batch did not fit.
    """

    batch_size: int
    measured: ProbeResult | None


@dataclass(frozen=True)
class BatchResult:
    """The measured batch sizes.

    Attributes:
        attempts: The attempts, ordered by batch size.
        devices: Number of devices of a training; the sizes in `attempts` are those of one device.
        limit: Limit of memory on the CPU in bytes; None on a GPU, whose memory is the limit.
    """

    attempts: tuple[Attempt, ...]
    devices: int
    limit: int | None

    @property
    def largest(self) -> int:
        """The largest batch of a whole step that fits."""
        return self.devices * max(
            attempt.batch_size for attempt in self.attempts if attempt.measured
        )

    @property
    def suggestion(self) -> int:
        """The smallest batch of a whole step that is about as fast as any.

        A larger batch takes more memory, makes fewer steps per epoch and is not faster.
        """
        speeds = {
            attempt.batch_size: attempt.measured.images_per_second
            for attempt in self.attempts
            if attempt.measured
        }
        enough = AS_FAST * max(speeds.values())
        return self.devices * min(size for size, speed in speeds.items() if speed >= enough)


def find_batch_size(
    root: Path, settings: Params, most: int = 1024, memory: int | None = None
) -> BatchResult:
    """Try batch sizes, each in a separate process, with the workspace's network and images.

    Args:
        root: The workspace; its images are packed.
        settings: Its parameters.
        most: The largest batch per device to try.
        memory: Bytes that a batch may take on the CPU; default: 90 % of the free memory.

    Raises:
        SegopsError: The training cannot be built, or not even the smallest batch fits.
    """
    open_store(root)
    devices = device_count(settings.train)
    unit = settings.train.accumulate
    on_cpu = choose_device(settings.train.device) == "cpu"
    limit = (memory or int(USABLE * free_memory())) if on_cpu else None
    state = root / paths.STATE
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tune-", dir=state) as scratch:

        def attempt(size: int) -> Attempt:
            measured = _attempt(root, Path(scratch), size, limit)
            log.info("batch size %d: %s", size, _described(measured))
            return Attempt(size, measured)

        attempts = search(attempt, unit, most, limit)
    if not any(attempt.measured for attempt in attempts):
        raise SegopsError(
            f"Not even a batch of {attempts[0].batch_size} fits into memory. Try a smaller "
            "augment.crop or model.encoder"
            + ("." if limit is None else f", or free memory: it may take {limit / 2**30:.1f} GiB.")
        )
    return BatchResult(tuple(attempts), devices, limit)


def search(
    attempt: Callable[[int], Attempt], unit: int, most: int, limit: int | None = None
) -> list[Attempt]:
    """Double the batch until it does not fit, then bisect.

    Args:
        attempt: Tries a size.
        unit: Sizes are multiples of this.
        most: The largest size to try.
        limit: Bytes; a size is not tried if the smaller sizes predict that it exceeds them.

    Returns:
        The attempts by size, at least one.
    """
    done: dict[int, Attempt] = {}
    # Batch norm needs at least two images for its statistics.
    first = low = unit * math.ceil(2 / unit)
    high: int | None = None
    size = first
    while size <= max(most, first):
        done[size] = _predicted_failure(size, done, limit) or attempt(size)
        if done[size].measured is None:
            high = size
            break
        low, size = size, 2 * size
    while high is not None and high > first and high - low > max(unit, low // FINENESS):
        size = low + max(unit, (high - low) // 2 // unit * unit)
        done[size] = _predicted_failure(size, done, limit) or attempt(size)
        low, high = (low, size) if done[size].measured is None else (size, high)
    return [done[size] for size in sorted(done)]


def free_memory() -> int:
    """Return the bytes that a process may still take: of the machine, or of its control group."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        inactive = (group / "memory.stat").read_text().partition("inactive_file ")[2].split()[0]
        return min(free, int(limit) - int(used) + int(inactive))
    except (OSError, ValueError, IndexError):  # no control group, or no limit ("max")
        return free


def _predicted_failure(size: int, done: dict[int, Attempt], limit: int | None) -> Attempt | None:
    """Return a failed attempt if the two largest smaller batches predict that `size` is too large.

    Memory grows linearly with the batch.
    """
    fitting = [
        attempt for attempt in done.values() if attempt.measured and attempt.batch_size < size
    ]
    if limit is None or len(fitting) < 2:
        return None
    fitting.sort(key=lambda attempt: attempt.batch_size)
    return Attempt(size, None) if _extrapolated(fitting[-2:], size) > 1.2 * limit else None


def _extrapolated(two: Sequence[Attempt], size: int) -> float:
    (small, low), (large, high) = (
        (attempt.batch_size, attempt.measured.memory) for attempt in two if attempt.measured
    )
    return high + (high - low) / (large - small) * (size - large)


def _attempt(root: Path, scratch: Path, size: int, limit: int | None) -> ProbeResult | None:
    command = [sys.executable, "-m", "segops.tune.probe", str(root), str(scratch)]
    command += ["--batch-size", str(size)]
    command += [] if limit is None else ["--memory", str(limit)]
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


def _described(measured: ProbeResult | None) -> str:
    if measured is None:
        return "does not fit"
    return f"{measured.images_per_second:.1f} images/s, {measured.memory / 2**30:.2f} GiB"
