"""The process that serves a schedule, and whether it still runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from segops.record.lineage import started_by

BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """The process that serves a schedule.

    Attributes:
        who: User and host.
        host: The machine's name.
        checkout: The workspace, an absolute path.
        pid: The process.
        boot: The start of the machine that it runs in, as the kernel names it; empty if unknown.
        created: When it started, in seconds since that start: a clock that is set changes nothing.
        since: When it took the schedule: UTC, ISO 8601.
    """

    who: str
    host: str
    checkout: str
    pid: int
    boot: str
    created: float
    since: str

    @classmethod
    def this_process(cls, checkout: str) -> Owner:
        """Return this process as an owner."""
        process = psutil.Process()
        return cls(
            started_by(),
            socket.gethostname(),
            checkout,
            process.pid,
            boot(),
            created(process),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def words(self) -> str:
        """Who it is and where it lives."""
        since = self.since[:16].replace("T", " ")
        return f"process {self.pid} of {self.who} in {self.checkout}, since {since} UTC"


def is_running(owner: Owner) -> bool:
    """Whether an owner on this machine runs; its process id may be another process's now."""
    try:
        process = psutil.Process(owner.pid)
        is_same: bool = owner.boot == boot() and created(process) == owner.created
        is_zombie: bool = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return is_same and not is_zombie


def boot() -> str:
    """Return the kernel's name of this start of the machine; empty where it tells none."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def created(process: psutil.Process) -> float:
    """Return when a process started, in seconds since the machine's start.

    Seconds since 1970 would change with the machine's clock: psutil adds the present boot time.
    """
    return float(round(process.create_time() - psutil.boot_time(), 2))
