"""A real guarded Prefect server, asked by programs, by its own page and by a hostile one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets

from flows import server as servers
from segops import pipeline
from segops.runtime.errors import SegopsError
from tests.support.browser import needs_browser
from tests.support.hostile_page import attack
from tests.support.prefect_server import Serving, serving

API = "/api/flows/filter"
SOCKETS = (
    "/api/events/in",
    "/api/events/out",
    "/api/logs/out",
    "/api/task_runs/subscriptions/scheduled",
    "/api/work_pools/any/workers/connect",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        yield running


def ask(server: Serving, method: str = "POST", path: str = API, **more: Any) -> httpx.Response:
    body = {"json": {}} if method == "POST" else {}
    return httpx.request(method, server.address + path, **body, **more)


def own(server: Serving) -> tuple[str, str]:
    name, _, password = server.credentials.partition(":")
    return name, password


def test_nobody_without_credentials_is_answered(server: Serving) -> None:
    assert ask(server).status_code == 401
    assert ask(server, auth=("segops", "wrong")).status_code == 401
    assert ask(server, "GET", "/api/admin/settings").status_code == 401
    assert ask(server, auth=own(server)).json() == []
    assert ask(server, "GET", "/api/health").json() is True  # what a container is asked for


def test_the_page_loads_and_asks_its_own_server(server: Serving) -> None:
    page = ask(server, "GET", "/v2/", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert "<html" in page.text
    settings = ask(server, "GET", "/ui-settings").json()
    assert (settings["api_url"], settings["auth"]) == ("/api", "BASIC")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1:{port}."]
)
def test_another_name_is_refused(server: Serving, host: str) -> None:
    """A name that was pointed at this machine."""
    port = httpx.URL(server.address).port
    headers = {"Host": host.format(port=port)}
    for path in ("/", "/api/health", API):
        assert ask(server, "GET", path, headers=headers, auth=own(server)).status_code == 403
    assert refused_handshake(server, SOCKETS[0], {"Host": headers["Host"]}) == 403


def test_its_own_names_are_answered(server: Serving) -> None:
    port = httpx.URL(server.address).port
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        answer = ask(server, headers=headers, auth=own(server))
        assert answer.status_code == 200
        assert not [one for one in answer.headers if one.startswith("access-control-")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "{address}.evil.example"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_page_is_refused(server: Serving, headers: dict[str, str]) -> None:
    headers = {name: value.format(address=server.address) for name, value in headers.items()}
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for answer in (
        ask(server, "GET", "/", headers=headers),
        ask(server, "GET", "/api/health", headers=headers),
        ask(server, headers=headers, auth=own(server)),
        ask(server, "OPTIONS", headers=headers | preflight),
    ):
        assert answer.status_code == 403
        assert not [one for one in answer.headers if one.startswith("access-control-")]
    for path in SOCKETS:
        assert refused_handshake(server, path, headers) == 403


def test_a_link_from_another_page_opens_the_page_and_no_more(server: Serving) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document"}  # fmt: skip
    answer = ask(server, "GET", "/v2/", headers=link)
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert ask(server, "POST", "/", headers=link).status_code == 403


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_asks_for_credentials(server: Serving, path: str) -> None:
    assert talk(server, path, None, {"type": "auth", "token": None}) is None
    assert talk(server, path, "prefect", {"type": "auth", "token": "segops:wrong"}) is None
    right = {"type": "auth", "token": server.credentials}
    assert talk(server, path, "prefect", right) == {"type": "auth_success"}


def talk(server: Serving, path: str, protocol: str | None, first: dict[str, Any]) -> Any:
    """What a websocket answers to the first message; None where it closes."""

    async def run() -> Any:
        protocols = [protocol] if protocol else None
        try:
            address = server.address.replace("http", "ws") + path
            async with websockets.connect(address, subprotocols=protocols) as socket:  # type: ignore[arg-type]
                await socket.send(json.dumps(first))
                return json.loads(await asyncio.wait_for(socket.recv(), 10))
        except websockets.WebSocketException:
            return None

    return asyncio.run(run())


def refused_handshake(server: Serving, path: str, headers: dict[str, str]) -> int | None:
    """The status with which a websocket is refused; None where it is taken."""
    keys = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    try:
        answer = httpx.get(server.address + path, headers=keys | headers, timeout=5)
    except httpx.HTTPError:
        return None
    return answer.status_code


@needs_browser
def test_a_hostile_page_in_a_browser_gets_nothing(server: Serving, tmp_path: Path) -> None:
    before = {what: server.read(what) for what in ("flows", "deployments", "flow_runs")}
    got = attack(server.address, tmp_path)
    # What it sends without being able to see the answer is `opaque` to it in any case.
    unseen = {
        "make a flow unseen": "opaque",
        "make a flow by an untyped body": "opaque",
        "make a flow by a beacon": True,
        "send a form": "sent",
        "frames": 0,
    }
    assert {name: got[name] for name in unseen} == unseen
    seen = {name: value for name, value in got.items() if name not in unseen}
    assert len(seen) >= 13
    assert [value for value in seen.values() if not str(value).startswith("refused: ")] == []
    assert {what: server.read(what) for what in before} == before
    assert server.automations() == []
    assert server.read("work_pools") == []


def test_nothing_shows_the_secret(server: Serving) -> None:
    secret = own(server)[1]
    assert len(secret) >= 43
    family = psutil.Process(server.pid)
    for process in (family, *family.children(recursive=True), psutil.Process()):
        assert secret not in " ".join(process.cmdline())
    kept = server.home / "segops-auth"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text().strip() == server.credentials
    holding = [
        path.name
        for path in server.home.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert holding == ["segops-auth"]
    answer = ask(server, "GET", "/api/admin/settings", auth=own(server))
    assert answer.status_code == 200
    assert secret not in answer.text


def test_credentials_go_to_no_server_but_ones_own(server: Serving) -> None:
    """Whoever is first may listen on a port, another user too."""
    port = httpx.URL(server.address).port
    assert port is not None
    assert servers.is_own(port)
    assert not servers.is_own(port + 1)
    stranger = servers.Server(once=True)  # not claimed, as a stranger's would not be
    try:
        assert not servers.is_own(int(stranger.address.rpartition(":")[2]))
    finally:
        stranger.stop()
    with pytest.raises(SegopsError, match=f"127.0.0.1:{port}: Address already in use"):
        servers.Server(port)


@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from flows.server import Server; server = Server(once=True); "
        "server.await_start(); print(server.pid, flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [os.sys.executable, "-c", script],  # type: ignore[attr-defined]
        cwd=Path(servers.__file__).parents[1],
        env={**pipeline.environment(), "PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    pid = int(holder.stdout.readline())
    assert psutil.pid_exists(pid)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert gone(pid, 10)


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False
