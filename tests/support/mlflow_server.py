"""Real MLflow servers, on SQLite or on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(
    folder: Path,
    database: str = "sqlite:///server.db",
    workers: int = 1,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A tracking server that keeps the artifacts itself: its address and its process.

    Args:
        folder: Where it keeps log and artifacts; it is made.
        database: Its database; not seen in the process list.
        workers: Number of its processes.
        options: Further options.
        environment: Further variables.
    """
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--workers", str(workers), "--port",
            str(port), "--artifacts-destination", "store", *options,
        ],
        cwd=folder,
        env={
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_BACKEND_STORE_URI": database,
            **(environment or {}),
        },
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        await_answer(f"{address}/health", folder / "log")
        yield address, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_answer(url: str, log: Path | None = None) -> None:
    """Wait until a server answers; it fails after two minutes, with the server's log."""
    end = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).is_success:
                return
        assert time.monotonic() < end, log.read_text() if log else url
        time.sleep(0.5)


def program(name: str) -> str:
    """A program of PostgreSQL; the test is skipped, or fails in CI, where it is missing."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(places[-1]) if places else shutil.which(name)
    if path is None:
        missing = f"{name} is missing: install Debian's package postgresql"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@contextmanager
def postgresql() -> Iterator[str]:
    """An empty PostgreSQL database on loopback: its address for SQLAlchemy."""
    initdb, server = program("initdb"), program("postgres")
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    with tempfile.TemporaryDirectory(prefix="pg-") as scratch:
        Path(scratch).chmod(0o755)
        data, port = Path(scratch) / "data", free_port()
        data.mkdir()
        os.chown(data, user.pw_uid, user.pw_gid)
        as_user: dict[str, Any] = (
            {"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}
        )
        subprocess.run(
            [initdb, "-D", str(data), "-U", "segops", "--auth=trust", "--no-sync"],
            check=True, capture_output=True, cwd=scratch, **as_user,
        )  # fmt: skip
        process = subprocess.Popen(
            [server, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories="],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=scratch, **as_user,
        )  # fmt: skip
        try:
            end = time.monotonic() + 60
            ready = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready).returncode != 0:
                assert time.monotonic() < end, "PostgreSQL does not come up"
                time.sleep(0.1)
            yield f"postgresql://segops@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
