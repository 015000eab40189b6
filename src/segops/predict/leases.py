"""Leases: which process works on what, in files that several machines see.

A process makes the lease's file exclusively and rewrites a counter in it every few seconds. A lease
is over when its counter has stood still for a while, measured by the clock of the process that
watches: two machines' clocks need not agree. On one machine there is no wait: the kernel frees the
lock on the file when its process ends, however it ends.

Within a run a lease spares work: what is written under it is the same whoever writes it, and is
written whole. A process that was paused may wake after its run has ended and a run of another model
began, so it asks for its lease before each file that it puts in place.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from uuid import uuid4

from segops import files

SUFFIX = ".lease"
BEAT_SECONDS = 5.0
"""Time between two beats of a lease's counter."""

EXPIRY_SECONDS = 60.0
"""A lease whose counter stands still for so long is over."""

_SECOND_LOOK_SECONDS = 0.05
_BOOT = Path("/proc/sys/kernel/random/boot_id")
log = logging.getLogger("segops")


class LostLeaseError(Exception):
    """Another process has taken over what this one was doing."""


class Lease:
    """A lease that this process holds, from its making until the end of the ``with`` block.

    Args:
        path: Its file.

    Attributes:
        path: Its file; set it anew where its directory is renamed.
        lost: Set once another process is known to have taken it over.

    Raises:
        FileExistsError: Another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = uuid4().hex
        self._count = 0
        self._ended, self.lost = Event(), Event()
        self._machine = ""
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            # First the lock, because whoever reads the machine's name tries it.
            with suppress(OSError):  # a file system without locks: the counter decides
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._machine = _machine()
            self._write()
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self._thread = Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        """Return the lease."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lease back."""
        self.give_back()

    def give_back(self) -> None:
        """Give the lease back; a second time does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        if self.is_held():
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def is_held(self) -> bool:
        """Whether no other process has taken the lease over, as after a pause of this one."""
        if not self.lost.is_set() and not self._is_there():
            # Another process may have moved the file aside for a moment; see Watch.take.
            time.sleep(_SECOND_LOOK_SECONDS)
            if not self._is_there():
                self.lost.set()
        return not self.lost.is_set()

    def require(self) -> None:
        """Raise LostLeaseError unless the lease is held."""
        if not self.is_held():
            raise LostLeaseError(self.path.stem)

    def _is_there(self) -> bool:
        try:
            return _field(self.path.read_bytes(), "token") == self._token
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a fault of the shared disk: others take over once it lasts

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and self.is_held():
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        self._count += 1
        content = {
            "owner": f"{socket.gethostname()}:{os.getpid()}",
            "machine": self._machine,
            "token": self._token,
            "count": f"{self._count:012}",  # of one length, for it is written over the last one
        }
        os.pwrite(self._file, json.dumps(content).encode() + b"\n", 0)
        getattr(os, "fdatasync", os.fsync)(self._file)


class Watch:
    """Takes leases that are free or over, and remembers what it saw of the others."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[bytes, float]] = {}
        self._moved: set[Path] = set()

    def take(self, path: Path) -> Lease | None:
        """The lease of a file; None while another process has it."""
        with suppress(FileExistsError):
            return Lease(path)
        try:
            content = self._over(path)
        except FileNotFoundError:
            return None  # given back meanwhile: whoever makes it next has it
        if content is None:
            return None
        aside = path.with_name(f".{path.name}.{uuid4().hex}")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if aside.read_bytes() != content:
                aside.rename(path)  # another process was quicker: this is its lease
                return None
            log.info("%s: %s has ended; its work is taken over.", path.stem, owner(content))
            aside.unlink()
        with suppress(FileExistsError):
            return Lease(path)
        return None

    def is_live(self, path: Path) -> bool | None:
        """Whether a lease's process lives; None as long as this is not known."""
        try:
            if self._over(path) is not None:
                return False
        except FileNotFoundError:
            return False
        return True if path in self._moved or _owner_is_here(path) else None

    def _over(self, path: Path) -> bytes | None:
        """The content of a lease that is over; None for others."""
        content = path.read_bytes()
        if _is_here(content):
            return None if files.is_held(path) else content
        seen, since = self._seen.get(path, (None, 0.0))
        if seen != content:
            if seen is not None:
                self._moved.add(path)
            since = time.monotonic()
            self._seen[path] = content, since
        return content if time.monotonic() - since >= EXPIRY_SECONDS else None


def owner(content: bytes) -> str:
    """Machine and process of a lease, by the content of its file."""
    return _field(content, "owner") or "another process"


def _owner_is_here(path: Path) -> bool:
    """Whether a lease's process runs on this machine."""
    with suppress(FileNotFoundError):
        return _is_here(path.read_bytes())
    return False


def _is_here(content: bytes) -> bool:
    """Whether a lease's process runs, or ran, under the kernel that this one runs under."""
    return _field(content, "machine") == _machine() != ""


def _machine() -> str:
    """What the kernel is called since it started; empty where it has no such name."""
    with suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return ""


def _field(content: bytes, name: str) -> str:
    try:
        found = json.loads(content)[name]
    except (ValueError, KeyError, TypeError):
        return ""  # a lease that is being made
    return found if isinstance(found, str) else ""
