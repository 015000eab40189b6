"""Examines what segops needs: installed, reachable, writable, configured, safe, with room."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from segops import pipeline
from segops.operate import installed, reachable, safety, surroundings
from segops.operate.surroundings import DoubtError, UnfitError
from segops.operate.worktree import NOBODY
from segops.runtime.errors import SegopsError

SECONDS = 9.0
"""How long the checks may take, which run at the same time."""
DISK_WANTED = MEMORY_WANTED = 2 << 30
"""Free bytes below which a run of ordinary size may fail."""
State = Literal["ok", "warning", "fault"]
Check = Callable[[Path], str]


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        group: What was asked: `installed`, `reachable`, `writable`, `configured`, `safe`, `room`.
        name: What was examined.
        state: `ok`; `warning`: a run may go wrong; `fault`: it does, or others may do harm.
        words: What was found, and what to do.
    """

    group: str
    name: str
    state: State
    words: str


def diagnose(root: Path) -> list[Finding]:
    """Run all checks at the same time.

    Args:
        root: The workspace.

    Returns:
        A finding for each check, in the order of `CHECKS`; one that does not end in time is a
        warning.
    """
    found: dict[tuple[str, str], Finding] = {}

    def examine(group: str, name: str, check: Check) -> None:
        found[group, name] = Finding(group, name, *_examined(check, root))

    threads = [
        threading.Thread(target=examine, args=(group, name, check), daemon=True)
        for group, checks in CHECKS.items()
        for name, check in checks.items()
    ]
    end = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"the check did not end within {SECONDS:.0f} s"
    return [
        found.get((group, name)) or Finding(group, name, "warning", late)
        for group, checks in CHECKS.items()
        for name in checks
    ]


def _examined(check: Check, root: Path) -> tuple[State, str]:
    try:
        return "ok", check(root)
    except DoubtError as error:
        return "warning", str(error)
    except SegopsError as error:
        return "fault", str(error)
    except Exception as error:
        return "fault", f"the check failed: {type(error).__name__}: {error}"


def parameters(root: Path) -> str:
    """Check ``params.yaml``."""
    from segops.params.file import load_params

    return f"params.yaml is valid; the model is {load_params(root).registry.model}"


def identity(root: Path) -> str:
    """Say as whom git commits."""
    asked = ["git", "config", "user.email"]
    done = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"nobody; runs are committed as {NOBODY['GIT_AUTHOR_EMAIL']}"


def repository(root: Path) -> str:
    """Check that the checkout is set up for DVC."""
    if not (root / ".dvc").is_dir():
        raise UnfitError(f"{root}/.dvc: no such directory. `dvc init` makes it.")
    running = pipeline.running(root)
    return f"stage {running} runs now" if running else "no stage runs"


def proxies(_: Path) -> str:
    """Check that calls to this machine take no proxy."""
    if names := surroundings.spared:
        raise DoubtError(
            f"{', '.join(names)} would take calls to this machine; segops spares them, and other "
            f"commands do not: export NO_PROXY={os.environ['NO_PROXY']}"
        )
    return "calls to this machine take no proxy"


def disks(root: Path) -> str:
    """Check the free space of each place that is written to."""
    places = {"checkout": root, "home": surroundings.prefect_home(), "temporary files": None}
    words, short = [], False
    for name, given in places.items():
        place = given or Path(tempfile.gettempdir())
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        short = short or free < DISK_WANTED
        words.append(f"{name} {_size(free)}")
    if short:
        raise DoubtError(f"free: {', '.join(words)}. Free space; a run writes up to 0.5 GiB.")
    return f"free: {', '.join(words)}"


def memory(_: Path) -> str:
    """Check the memory that is free, within the limit of a container."""
    free = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, max(0, limit - used))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    if free < MEMORY_WANTED:
        raise DoubtError(f"{_size(free)} are free. End other programs, or lower train.batch_size.")
    return f"{_size(free)} free"


def gpus(_: Path) -> str:
    """Say which GPUs the driver shows."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "none: the CPU trains"
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise DoubtError(f"nvidia-smi fails: {done.stdout.strip() or done.stderr.strip()}")
    return "; ".join(done.stdout.strip().splitlines())


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


CHECKS: dict[str, dict[str, Check]] = {
    "installed": {
        "libraries": installed.libraries,
        "pins": installed.pins,
        "extras": installed.extras,
    },
    "reachable": {
        "MLflow": reachable.mlflow,
        "Prefect": reachable.prefect,
        "DVC's remotes": reachable.remotes,
    },
    "writable": {"checkout": surroundings.workspace, "home": surroundings.home},
    "configured": {
        "parameters": parameters,
        "DVC": repository,
        "git": surroundings.ownership,
        "git's user": identity,
        "proxies": proxies,
    },
    "safe": {
        "credential files": safety.files,
        "DVC's configuration": safety.dvc_secrets,
        "servers": safety.servers,
    },
    "room": {
        "disks": disks,
        "memory": memory,
        "shared memory": surroundings.shared_memory,
        "address space": surroundings.address_space,
        "open files": surroundings.open_files,
        "GPUs": gpus,
    },
}
"""Per group and name: a function that returns what it found, or raises what is wrong."""
