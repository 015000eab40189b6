"""What a Prefect server of this user asks for, and what its clients show.

Prefect's settings decide: ``PREFECT_SERVER_API_AUTH_STRING`` or ``PREFECT_API_AUTH_STRING``, from
the environment or the profile. Where neither is set, one is made and kept in ``PREFECT_HOME``, in
a file that only its owner can read.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_HOME,
    PREFECT_SERVER_API_AUTH_STRING,
)

from segops.runtime.errors import SegopsError

FILE = "segops-auth"


def credentials() -> str:
    """The credentials, `NAME:PASSWORD`.

    Raises:
        SegopsError: They are not usable, or others can read the file that keeps them.
    """
    found = _configured()
    if found is None:
        return _kept(kept_at())
    name, value = found
    if not re.fullmatch(r"[!-9;-~]+:[ -~]*[!-~]", value):
        raise SegopsError(f"{name}: expected NAME:PASSWORD in ASCII characters, neither empty.")
    return value


def whereabouts() -> str:
    """Where a person finds the credentials; they are not shown."""
    found = _configured()
    return f"the value of {found[0]}" if found else f"the line that `cat {kept_at()}` shows"


def kept_at() -> Path:
    """The file that keeps credentials that were made here."""
    return Path(PREFECT_HOME.value()) / FILE


def _configured() -> tuple[str, str] | None:
    for setting in (PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING):
        # An empty one would leave Prefect's websockets open.
        if value := setting.value():
            return setting.name, str(value)
    return None


def _kept(path: Path) -> str:
    try:
        if not os.path.lexists(path):
            _make(path)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(0, "not a regular file")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise SegopsError(
            f"{path}: {error.strerror}. It keeps the credentials of your Prefect server: remove "
            "what is there, it is made anew, or set PREFECT_HOME to a directory of yours."
        ) from None
    with os.fdopen(handle, encoding="ascii", errors="replace") as file:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise SegopsError(
                f"{path}: others can read the credentials of your Prefect server, or it is not "
                "your file. Remove it; it is made anew."
            )
        text = file.read().strip()
    if not re.fullmatch(r"segops:[\w-]{43,}", text):
        raise SegopsError(f"{path}: holds no credentials. Remove it; it is made anew.")
    return text


def _make(path: Path) -> None:
    """Write new credentials whole, unless another process is first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600, O_EXCL
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"segops:{secrets.token_urlsafe(32)}\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
