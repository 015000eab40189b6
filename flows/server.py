"""A Prefect server for schedules: the one that is set, the one on this machine, or a new one."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from segops.errors import SegopsError

LOCAL = "http://127.0.0.1:4200"
START_SECONDS = 120.0
log = logging.getLogger("segops")


@contextmanager
def scheduling_server() -> Iterator[None]:
    """Hold a server that can schedule; the temporary one of a single flow call cannot.

    ``PREFECT_API_URL`` or the Prefect profile decides. Where neither names one, a server that
    already answers on this machine's port 4200 is used, or one is started there and stopped at the
    end.

    Raises:
        SegopsError: The server does not answer.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        if not _answers(configured):
            raise SegopsError(
                f"{configured}: no Prefect server answers. Start it, or unset PREFECT_API_URL."
            )
        yield
        return
    with nullcontext() if _answers(f"{LOCAL}/api") else _started():
        log.info("Prefect page: %s", LOCAL)
        with temporary_settings({PREFECT_API_URL: f"{LOCAL}/api"}):
            yield


@contextmanager
def _started() -> Iterator[None]:
    log.info("Starting a Prefect server on %s", LOCAL)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{LOCAL}/api"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SegopsError(
                    f"No Prefect server came up on {LOCAL}. `prefect server start` shows why; "
                    "or set PREFECT_API_URL to a server that runs."
                )
            time.sleep(0.5)
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False
