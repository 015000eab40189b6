"""Atomic writes, hashes and locks of files."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segops.runtime.errors import SegopsError
from segops.runtime.file_kinds import no_file

SCRATCH = "segops-scratch-"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a free path beside `target`; on success it is synced and renamed to `target`.

    The caller writes one file there. On an exception nothing is left and `target` is untouched.
    """
    temporary = _beside(target)
    try:
        with _naming(target):
            yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty temporary directory beside `target`; on success it takes `target`'s place.

    Files in it are synced first. On an exception nothing is left and `target` is untouched. What
    killed processes left beside `target` is removed.
    """
    temporary = _beside(target)
    temporary.mkdir()
    try:
        with _held(temporary):
            with _naming(target):
                yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _sync(path)
            if target.exists():
                old = _beside(target)
                old.mkdir()
                target.rename(old / target.name)
                temporary.rename(target)
                shutil.rmtree(old)
            else:
                temporary.rename(target)
            _sync(target.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    # Only now: what was killed between two renames holds the only copy of the old content.
    before, after = glob.escape(f".{target.name}."), glob.escape(target.suffix)
    _remove_abandoned(target.parent, f"{before}{8 * '[0-9a-f]'}{after}")


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Name `target` in an OSError that names no path, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise


def _beside(target: Path) -> Path:
    """Return a free hidden path beside `target`; its directory is created where missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{target.suffix}")


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write `content` as UTF-8 to `target`, whole or not at all."""
    write_bytes(target, content.encode())


def write_json(target: Path, content: Any) -> None:
    """Write `content` as JSON to `target`, whole or not at all.

    Raises:
        ValueError: `content` holds NaN or an infinity, which JSON cannot represent.
    """
    write_text(target, json_text(content))


def append(file: FileIO, content: bytes) -> None:
    """Append `content` to a file that was opened without a buffer, whole or not at all.

    Raises:
        OSError: The disk is full; the file is as it was before.
    """
    size = file.seek(0, os.SEEK_END)
    if file.write(content) != len(content):
        file.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))


def json_text(content: Any) -> str:
    """Return `content` as :func:`write_json` writes it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier step wrote.

    Raises:
        SegopsError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file. `segops run` makes it.") from None
    except json.JSONDecodeError as error:
        raise SegopsError(f"{path}: not JSON: {error}. `dvc repro` makes it again.") from None


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path) -> str:
    """Return the SHA-256, in hexadecimal, over paths and contents of all files below `root`.

    Byte code (``__pycache__``) does not count.

    Raises:
        SegopsError: There is no such directory.
    """
    if not root.is_dir():
        raise SegopsError(f"{root}: no such directory.")
    files = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return sha256_lines(f"{name}\t{sha256_file(root / name)}" for name in files)


def require_files(directory: Path) -> None:
    """Refuse what below a directory is neither file nor directory, such as a pipe or a dead link.

    DVC, like others, waits for ever for what a pipe holds. Links to directories are not followed.

    Raises:
        SegopsError: There is something of the kind; all of it is listed.
    """
    found: list[SegopsError] = []
    for name, _, _ in os.walk(directory):
        with os.scandir(name) as entries:
            for entry in entries:
                try:
                    if entry.is_file() or entry.is_dir():
                        continue
                    found.append(SegopsError(f"{entry.path}: {no_file(entry.stat().st_mode)}"))
                except OSError as error:
                    words = error.strerror
                    found.append(SegopsError(f"{entry.path}: a link that leads nowhere ({words})"))
    if found:
        listed = sorted(map(str, found))
        raise SegopsError("\n  ".join([f"{directory}: remove what is no file:", *listed]))


def sha256_lines(lines: Iterator[str] | list[str]) -> str:
    """Return the SHA-256 over text lines, each ended by a newline, in hexadecimal."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def exclusive(lock: Path, doing: str) -> Iterator[None]:
    """Hold an operating-system lock; the kernel frees it when the process ends, however it ends.

    `doing` says what the lock's holder does, for the message ("a training stage").

    Raises:
        SegopsError: Another process holds the lock.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock).acquire(blocking=False)
    except Timeout:
        raise SegopsError(
            f"{lock}: {doing} is under way in this workspace. Wait for it to end, or stop it first."
        ) from None
    with held:
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock; to look hinders nobody else who looks."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty temporary directory, in `parent` where given; it is removed at the end.

    A killed process leaves its directories. The next process of the same user removes them: the
    lock of each is free then.
    """
    place = parent or Path(tempfile.gettempdir())
    _remove_scratch(place)
    while True:
        with (
            tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place) as name,
            _held(Path(name)) as is_held,
        ):
            if is_held:
                yield Path(name)
                return


@cache
def _remove_scratch(place: Path) -> None:
    _remove_abandoned(place, f"{SCRATCH}*")


def _remove_abandoned(place: Path, pattern: str) -> None:
    """Remove directories that no process holds any more."""
    for path in place.glob(pattern):
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                with _held(path) as is_held:
                    if is_held:
                        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Hold the lock of a directory; yield false where others hold it or have removed it."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield directory.exists()
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
