"""Says in a sentence what the machine refused: space, rights, memory, open files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segops.runtime.errors import SegopsError

AGAIN = "then repeat the command"
SHORTAGES = {
    errno.ENOSPC: ("the disk is full", f"Free space on it, {AGAIN}"),
    errno.EDQUOT: ("your quota of this disk is used up", f"Remove files of yours, {AGAIN}"),
    errno.EFBIG: (
        "the file would be larger than allowed",
        f"Raise the limit (`ulimit -f`), or use another file system, {AGAIN}",
    ),
    errno.EROFS: (
        "the file system is read-only",
        f"Mount it for writing, or work in a copy elsewhere, {AGAIN}",
    ),
    errno.EACCES: ("you lack the right to use it", f"Change its rights or owner, {AGAIN}"),
    errno.EPERM: ("you lack the right to change it", f"Change its rights or owner, {AGAIN}"),
    errno.EMFILE: (
        "too many files are open in this process",
        f"Raise the limit (`ulimit -n 4096`), {AGAIN}",
    ),
    errno.ENFILE: ("too many files are open on this machine", f"End other programs, {AGAIN}"),
    errno.ENOMEM: (
        "not enough memory",
        "End other programs, raise the limit of this process (`ulimit -v`, a container's memory), "
        f"or lower the size of a batch, of images or the number of workers, {AGAIN}",
    ),
    errno.EIO: (
        "the device failed to read or write",
        f"Check disk, free space and connection, {AGAIN}",
    ),
}
"""What is short, and what to do, by the error's number."""
CONFLICTS = {
    errno.ENOTDIR: ("a file is in the place of a directory", f"Move that file away, {AGAIN}"),
    errno.EEXIST: ("something else is in its place", f"Move it away, {AGAIN}"),
    errno.EISDIR: ("a directory is in the place of a file", f"Move it away, {AGAIN}"),
    errno.ENOENT: (
        "no such file or directory",
        "Check the path; what stages make, `segops run` makes again",
    ),
}
"""What is wrong with a path, and what to do, by the error's number."""
TEAM = {
    "psycopg2": "PostgreSQL",
    "asyncpg": "PostgreSQL",
    "boto3": "S3",
    "botocore": "S3",
    "dvc_s3": "S3",
    "flask_wtf": "MLflow's logins",
}
"""Modules of the extra `team`, and what needs them."""
NO_PLACE = "No usable temporary directory"
OTHER_PLACE = f"Free space there, or set TMPDIR to a directory that you may write, {AGAIN}"
NUMBERED = re.compile(r"(?:os error |errno )(\d+)", re.IGNORECASE)
TEXTS = {
    errno.ENOSPC: re.compile("No space left on device|disk is full"),
    errno.EACCES: re.compile("readonly database|unable to open database file"),
    errno.EIO: re.compile("disk I/O error"),
    errno.ENOMEM: re.compile(
        "can(?:'t|not) allocate memory|Insufficient memory|out of memory|can't start new thread"
        "|failed to map segment",
        re.IGNORECASE,
    ),
}
"""What libraries write into errors of their own, which hold no number."""
SHARED = re.compile(r"shared memory\(shm\)|</torch_\d+")
"""How torch names a file in shared memory."""
LESS = "lower hardware.workers, train.batch_size or augment.crop"
SHARED_FULL = f"/dev/shm is full. Enlarge it (a container: --shm-size=2g), or {LESS}, {AGAIN}."
LOADER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited)"
)
"""What torch says when a process that makes samples ends early."""


@contextmanager
def named() -> Iterator[None]:
    """Turn an error of the operating system, or lack of memory, into one that says what to do.

    Other errors, and an OSError that says neither what nor where, pass as they are.

    Raises:
        SegopsError: It names the path where it is known, what is missing, and what to do.
    """
    try:
        yield
    except SegopsError:
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise SegopsError(sentence) from error


def is_shortage(error: BaseException) -> bool:
    """Whether the operating system, or memory, refused; the error's causes count."""
    cause: BaseException | None = error
    while cause is not None:
        if _number(cause) in SHORTAGES or NO_PLACE in str(cause):
            return True
        cause = cause.__cause__
    return False


def without_package(module: str) -> str:
    """Return the sentence for a module of the extra `team` that is not installed."""
    return (
        f"{TEAM[module]} needs the package {module}, which is not installed. "
        "`pip install 'segops[team]'` installs it."
    )


def _sentence(error: BaseException) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name in TEAM:
            return without_package(cause.name)
        # torch names the signal in the cause of the error that it raises.
        if (ended := LOADER.search(str(cause))) and (ended[2] or cause.__cause__ is None):
            return _ended(ended[1], ended[2] or "")
        path, number = _path(cause), _number(cause)
        if number == errno.ENOSPC and SHARED.search(str(cause)):
            return SHARED_FULL
        if number in SHORTAGES:
            what, advice = SHORTAGES[number]
            return f"{path or _where(number)}{what}. {advice}."
        if NO_PLACE in str(cause):
            return f"{cause.args[-1]}: the disk is full, or you lack the right. {OTHER_PLACE}."
        if path and isinstance(cause, OSError):
            what, advice = CONFLICTS.get(
                cause.errno or 0, (str(cause.strerror), f"Check this path, {AGAIN}")
            )
            return f"{path}{what}. {advice}."
        cause = cause.__cause__
    return None


def _ended(process: str, signal: str) -> str:
    """Return what ended a process that makes samples, and what to do."""
    if signal == "Bus error":
        return SHARED_FULL
    return (
        f"Process {process}, which made samples, was ended from outside"
        f"{f' ({signal})' if signal else ''}, as the system does where memory is short. "
        f"Give more memory, or {LESS}, {AGAIN}; a training continues where it was."
    )


def _number(error: BaseException) -> int | None:
    """Return the number of an error, from its text where it has none."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    numbered = NUMBERED.search(text)
    if numbered is not None:
        return int(numbered[1])
    return next((number for number, words in TEXTS.items() if words.search(text)), None)


def _path(error: BaseException) -> str:
    """Return the start of a sentence with the path of an error; empty where it names none."""
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return f"{os.fsdecode(name)}: " if isinstance(name, str | bytes | Path) else ""


def _where(number: int) -> str:
    """Return the free space of the places that are written to, for a full disk without a path."""
    if number != errno.ENOSPC:
        return ""
    places = dict.fromkeys((str(Path.cwd()), tempfile.gettempdir()))
    free = (f"{shutil.disk_usage(place).free >> 20} MiB at {place}" for place in places)
    return f"A disk (free: {', '.join(free)}): "
