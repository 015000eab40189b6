"""Refusals before a request reaches its route, and names in answers."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import zipfile
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from segops.serve import edge, replies, server, settings
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool

KEY = "0123456789abcdef"


def app(**options: Any) -> ASGIApp:
    chosen = settings.Settings(model="x", **options)
    pool = Pool("onnx", ("cpu",), chosen.limits, None)
    return server.app(chosen, pool, Metrics(pool), 8080)


async def answered(content: bytes) -> tuple[bytes, Any]:
    """What a server on a socket answers to these bytes: the first line, and the body's JSON."""
    config = uvicorn.Config(app(), http=edge.Protocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        task = asyncio.create_task(running.serve(sockets=[bound]))
        while not running.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(content)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        running.should_exit = True
        await task
    assert b"content-type: application/json" in head.lower()
    return head.splitlines()[0], json.loads(body)["error"]


def test_no_http_is_refused_as_everything_else() -> None:
    first, error = asyncio.run(answered(b"no HTTP\r\n\r\n"))
    assert first == b"HTTP/1.1 400 Bad Request"
    assert error["status"] == 400


def test_an_incomplete_head_is_refused_as_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "HEAD_SECONDS", 0.1)
    first, error = asyncio.run(answered(b"GET / HTTP/1.1\r\n"))
    assert first == b"HTTP/1.1 408 Request Timeout"
    assert error["status"] == 408


def test_hosts_are_named_once() -> None:
    answer = TestClient(app()).get("/ready")  # asks for the host `testserver`
    assert answer.status_code == 403
    assert answer.json()["error"]["message"].count("127.0.0.1:8080") == 1
    first, error = asyncio.run(answered(b"GET /ready HTTP/1.0\r\n\r\n"))
    assert b" 403 " in first
    assert "one host" in error["message"]


def test_nothing_leads_to_the_host_that_a_request_names() -> None:
    answer = TestClient(app(keys=(KEY,)), follow_redirects=False).post(
        "/predict/", headers={"Host": "evil.example", "X-API-Key": KEY}
    )
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, 404)


def test_names_in_an_archive_fit_into_a_file_system() -> None:
    results = [replies.Result("猫" * 200 + ".png", b"mask"), replies.Result("b.png", b"mask")]
    model = {"name": "m", "version": "1", "digest": "0" * 64}
    answer = replies.several(results, replies.ZIP, model)
    with zipfile.ZipFile(io.BytesIO(bytes(answer.body))) as archive:
        names = archive.namelist()
    assert max(len(name.encode()) for name in names) <= 255
    assert names[0].startswith("0001-猫猫")
