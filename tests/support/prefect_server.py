"""A guarded Prefect server of a test's own, and ways to talk to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_HOME,
    temporary_settings,
)

from flows import server
from flows.credentials import credentials
from segops.operate import crashes


@dataclass(frozen=True)
class Serving:
    """A server that runs.

    Attributes:
        address: ``http://127.0.0.1:PORT``.
        credentials: What it asks for.
        home: Its ``PREFECT_HOME``.
        pid: Its process.
    """

    address: str
    credentials: str
    home: Path
    pid: int

    def settings(self) -> dict[str, str]:
        """The environment of a client."""
        return {
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_API_AUTH_STRING": self.credentials,
        }

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """What the server answers to its owner."""
        for _ in range(20):
            answer = httpx.post(
                f"{self.address}/api/{path}", json=body, auth=self._own(), timeout=30
            )
            if answer.status_code != 503:  # the database is locked for a moment
                break
            time.sleep(0.5)
        return answer

    def get(self, path: str) -> Any:
        """What the server holds at a path."""
        url = f"{self.address}/api/{path}"
        return httpx.get(url, auth=self._own(), timeout=30).raise_for_status().json()

    def _own(self) -> tuple[str, str]:
        name, _, password = self.credentials.partition(":")
        return name, password

    def read(self, what: str) -> list[dict[str, Any]]:
        """All flows, deployments, flow_runs, ... as the owner sees them."""
        answer = self.post(f"{what}/filter", {})
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def automations(self) -> list[dict[str, Any]]:
        """All automations but the one that the server installs itself as it starts."""
        return [one for one in self.read("automations") if one["name"] != crashes.NAME]


@contextmanager
def serving(home: Path, *, once: bool = False, port: int = 0) -> Iterator[Serving]:
    """Start a server on a home's database, whose clients in this process use it.

    Another server may be in use around it.
    """
    others = {PREFECT_API_URL, PREFECT_API_AUTH_STRING}
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_HOME: home}, restore_defaults=others),
    ):
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        running = server.Server(port, once=once)
        try:
            running.await_start()
            secret = credentials()
            clients = {PREFECT_API_URL: f"{running.address}/api", PREFECT_API_AUTH_STRING: secret}
            with temporary_settings(clients):
                yield Serving(running.address, secret, home, running.pid)
                server.deliver()
        finally:
            running.stop()
