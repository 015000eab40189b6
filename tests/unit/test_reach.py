"""Whether a server answers: real sockets that refuse, that never answer, and that do."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from segops import reach
from tests.support.loopback import serve
from tests.support.mlflow_server import free_port


@contextmanager
def hanging() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS", 0.3)


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "postgresql+psycopg2", "mysql"])
def test_a_server_that_refuses_or_hangs_is_told(scheme: str) -> None:
    gone = reach.silence(f"{scheme}://user:pa/ss@127.0.0.1:{free_port()}/name", "/health")
    if scheme.startswith("http"):
        assert gone is not None
    else:
        assert gone == "Connection refused"
    with hanging() as port:
        silent = reach.silence(f"{scheme}://user:secret@127.0.0.1:{port}/name", "/health")
    assert silent is not None
    assert silent.startswith("no answer within")


def test_any_answer_is_one() -> None:
    with serve() as server:
        assert reach.silence(server.address, "/missing") is None
        assert [request.path for request in server.requests] == ["/missing"]


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////nowhere/mlflow.db",
        "databricks",
        "file:/x",
        "postgresql:///x",
        "postgresql://:x:",
    ],
)
def test_an_address_of_no_server_is_not_asked(address: str) -> None:
    assert reach.silence(address) is None


def test_an_answer_that_does_not_end_is_none() -> None:
    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while not ended.wait(0.05):
                    self.request.sendall(b"HTTP/1.1 200 OK\r\n"[:1])

    ended = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert reach.silence(address, "/health") == "no answer within 2 s"
        ended.set()
        server.shutdown()


def test_an_address_without_a_host_is_told() -> None:
    assert reach.silence("http://[::1/x", "/health") == "not a valid address"
    assert reach.silence("mysql://127.0.0.1:99999/x")
    assert reach.silence("http://", "/health")
    assert reach.silence("http://127.0.0.1:none", "/health")
