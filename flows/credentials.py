"""The credentials of this user's Prefect server and its clients.

They come from ``PREFECT_SERVER_API_AUTH_STRING`` or ``PREFECT_API_AUTH_STRING``, in the environment
or the profile. Without either setting, credentials are generated and stored in ``PREFECT_HOME``, in
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
    """Return the credentials, `NAME:PASSWORD`.

    Raises:
        SegopsError: They are not usable, or others can read their file.
    """
    configured = _configured()
    if configured is None:
        return _stored(stored_at())
    name, value = configured
    if not re.fullmatch(r"[!-9;-~]+:[ -~]*[!-~]", value):
        raise SegopsError(f"{name}: expected NAME:PASSWORD in ASCII characters, neither empty.")
    return value


def whereabouts() -> str:
    """Return where a person finds the credentials; they are not shown."""
    configured = _configured()
    if configured:
        return f"the value of {configured[0]}"
    return f"the line that `cat {stored_at()}` shows"


def stored_at() -> Path:
    """Return the file of generated credentials."""
    return Path(PREFECT_HOME.value()) / FILE


def _configured() -> tuple[str, str] | None:
    for setting in (PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING):
        # An empty setting would leave Prefect's websockets open.
        if value := setting.value():
            return setting.name, str(value)
    return None


def _stored(path: Path) -> str:
    try:
        if not os.path.lexists(path):
            _make(path)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(0, "not a regular file")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise SegopsError(
            f"{path}: {error.strerror}. It holds the credentials of your Prefect server. Remove "
            "it, and segops makes it again, or set PREFECT_HOME to a directory of yours."
        ) from None
    with os.fdopen(handle, encoding="ascii", errors="replace") as file:
        status = os.fstat(handle)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise SegopsError(
                f"{path}: others can read the credentials of your Prefect server, or it is not "
                "your file. Remove it; segops makes it again."
            )
        text = file.read().strip()
    if not re.fullmatch(r"segops:[\w-]{43,}", text):
        raise SegopsError(f"{path}: holds no credentials. Remove it; segops makes it again.")
    return text


def _make(path: Path) -> None:
    """Write new credentials atomically, unless another process has written them."""
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
