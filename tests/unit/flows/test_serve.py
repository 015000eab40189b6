"""Which errors a schedule waits out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.services import critical_service_loop
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from flows import serve
from segops.runtime.errors import SegopsError, TransientError
from tests.support.no_server import faulty


class Refusing(BaseHTTPRequestHandler):
    """Refuses whoever asks."""

    def do_GET(self) -> None:
        self.send_error(401, "other credentials")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            yield
        server.shutdown()


def nested(error: Exception) -> ExceptionGroup[Exception]:
    """The form in which Prefect's runner raises."""
    return ExceptionGroup("tasks", [ExceptionGroup("more tasks", [error])])


@pytest.mark.usefixtures("refusing")
def test_a_server_that_refuses_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "KEEP_SECONDS", 0)
    with pytest.raises(SegopsError, match="refuses a request of this schedule with status 401"):
        serve._await_server(None, nested(RuntimeError("Service exceeded error threshold.")))


def test_an_error_of_the_code_is_not_waited_out() -> None:
    with pytest.raises(ExceptionGroup, match="tasks"):
        serve._await_server(None, nested(TypeError("a fault")))


def test_the_cause_is_found_in_what_the_client_raises() -> None:
    request = httpx.Request("POST", "http://127.0.0.1/api/deployments/")
    answer = httpx.Response(422, request=request)
    error = TransientError("no answer")
    error.__cause__ = httpx.HTTPStatusError("422", request=request, response=answer)
    (cause,) = serve._causes(nested(error))
    assert serve._is_refusal(cause)
    answer.status_code = 503
    assert not serve._is_refusal(cause)


def test_a_page_that_answers_for_the_events_of_a_starting_runner_is_waited_out() -> None:
    async def listen(address: str) -> None:
        async with connect(address.replace("http", "ws")):
            raise AssertionError

    with faulty("page of a proxy") as address, pytest.raises(WebSocketException) as refused:
        asyncio.run(listen(address))
    error = RuntimeError("Runner failed to start: event_emitter")
    error.__cause__ = refused.value
    (cause,) = serve._causes(error)
    assert isinstance(cause, serve.SERVER_ERRORS)
    assert str(cause) == "did not receive a valid HTTP response"


def test_a_loop_of_prefect_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def away() -> None:
        raise httpx.ConnectError("refused")

    serve._log_retries()
    with pytest.raises(RuntimeError, match="Service exceeded error threshold"):
        asyncio.run(critical_service_loop(away, interval=0))
    assert capsys.readouterr() == ("", "")
