"""Queues for what one process at a time may use: a workspace, and each graphics card.

The locks are the operating system's: the kernel frees them when their process ends, however it
ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from segops import files, paths
from segops.runtime.errors import SegopsError

LOCKS = Path("/proc/locks")
SHARED, ELSE = Path("/run/lock"), Path("/tmp")
"""Where all users of a machine may keep locks; the second where the first is not for all.

One place for all users, whatever their rights and TMPDIR: else they would not see each other.
"""
POLL_SECONDS = 0.5
log = logging.getLogger("segops")
Say = Callable[[str], None]


@contextmanager
def turn(lock: Path, doing: str, say: Say, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock of a workspace; wait until it is free, and say once who holds it.

    Args:
        lock: The lock's file.
        doing: What its holder does ("another run"), for messages.
        say: Called with a sentence if there is something to wait for.
        wait: Whether to wait; else a lock that is held is an error.

    Raises:
        SegopsError: Another process holds it, and `wait` is false.
    """
    told, place = False, str(lock).rpartition(f"/{paths.STATE}/")[0]
    while True:
        with ExitStack() as held:
            try:
                held.enter_context(files.exclusive(lock, f"{doing}{holder(lock)}"))
            except SegopsError:
                if not wait:
                    raise
            else:
                yield
                return
        if not told:
            say(f"{place}: {doing}{holder(lock)} is under way; this one waits.")
            told = True
        time.sleep(POLL_SECONDS)


def holder(lock: Path) -> str:
    """Return, in brackets and after a space, the process that holds a lock; empty if unknown."""
    try:
        name = _kernel_name(lock)
        for line in LOCKS.read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == name:
                process = psutil.Process(int(fields[4]))
                begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
                return f" (process {process.pid} of {process.username()}, begun {begun})"
    except (OSError, ValueError, IndexError, psutil.Error):
        pass
    return ""


def _kernel_name(path: Path) -> str:
    """Return device and inode of a file as the kernel lists locks.

    The device is that of the mount: `stat` gives another one on btrfs.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        inode = os.fstat(handle).st_ino
        described = Path(f"/proc/self/fdinfo/{handle}").read_text(encoding="ascii").split()
    finally:
        os.close(handle)
    mount = described[described.index("mnt_id:") + 1]
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[0] == mount:
            major, minor = map(int, fields[2].split(":"))
            return f"{major:02x}:{minor:02x}:{inode}"
    return ""


@contextmanager
def cards(root: Path) -> Iterator[None]:
    """Hold the graphics cards of a training of the workspace `root`; none on the CPU.

    Raises:
        SegopsError: Parameters and machine do not allow the training.
    """
    from segops.train.devices import choose_device, choose_world
    from segops.train.launch import Settings

    train = Settings.read(root).train
    if choose_device(train.device) == "cpu":
        yield
        return
    count, _ = choose_world(train, "cuda")
    with devices(_gpus(range(count)), log.info):
        yield


@contextmanager
def card(device: str) -> Iterator[None]:
    """Hold the graphics card of predictions, so that a training beside them has its memory.

    Args:
        device: Where to predict, as of :func:`segops.runtime.opener.open_bundle`.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        yield
        return
    number = 0 if device == "auto" else torch.device(device).index or 0
    with devices(_gpus([number]), log.info):
        yield


def _gpus(numbers: Iterable[int]) -> list[str]:
    import torch

    return [f"gpu-{torch.cuda.get_device_properties(number).uuid}" for number in numbers]


@contextmanager
def devices(names: Sequence[str], say: Say, directory: Path | None = None) -> Iterator[None]:
    """Hold the locks of devices, in the order of their names so that no two wait for each other.

    The locks are the machine's: users who share a card wait for each other too. Where a lock's file
    cannot be used, the log gets a warning and the device is used without.

    Args:
        names: Their names, unique on this machine.
        say: Called once for each device that is waited for.
        directory: Where the locks lie, for tests.
    """
    if directory is None:
        directory = SHARED if _is_for_all(SHARED) else ELSE
    with ExitStack() as held:
        for name in sorted(set(names)):
            path = directory / f"segops-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}.lock"
            try:
                handle = _opened(path)
            except OSError as error:
                log.warning("%s: %s; %s is used without a lock.", path, error.strerror, name)
                continue
            held.callback(os.close, handle)
            _lock(handle, path, name, say)
        yield


def _is_for_all(directory: Path) -> bool:
    wanted = stat.S_ISVTX | stat.S_IWOTH
    return directory.is_dir() and directory.stat().st_mode & wanted == wanted


def _lock(handle: int, path: Path, name: str, say: Say) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                say(f"{name}: in use by another run{holder(path)}; this one waits.")
                told = True
            time.sleep(POLL_SECONDS)


def _opened(path: Path) -> int:
    """Open a lock's file, whoever made it; nothing is ever written to it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        try:
            handle = os.open(path, flags)
        except FileNotFoundError:
            try:
                handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            os.fchmod(handle, 0o644)  # whatever the umask: others must open it
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise OSError(0, "no regular file", str(path))
