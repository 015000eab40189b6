"""Answers to clients that read them, and to one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.responses import Response

from segops.serve import edge
from segops.serve.body import Budget
from segops.serve.edge import Edge, Protocol
from segops.serve.metrics import Metrics
from segops.serve.pool import Limits, Pool

ANSWER = bytes(range(256)) * (1 << 16)


@asynccontextmanager
async def answering(budget: Budget, metrics: Metrics | None = None) -> AsyncIterator[int]:
    """A server that gives everybody the same 16 MiB; yields its port."""
    metrics = metrics or Metrics(Pool("none", ("cpu",), Limits(), None))
    config = uvicorn.Config(
        Edge(Response(ANSWER), metrics, budget), port=0, http=Protocol, ws="none", lifespan="off",
        log_level="error",
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def test_a_client_that_does_not_read_loses_its_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge, "SLOWEST", 1 << 24)
    monkeypatch.setattr(edge, "GRACE_SECONDS", 1.0)
    budget = Budget(1 << 30)

    async def check() -> None:
        async with answering(budget) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.read(15)) == b"HTTP/1.1 200 OK"
            assert budget.held == len(ANSWER)
            async with httpx.AsyncClient(trust_env=False) as client:
                for _ in range(2):
                    answer = await client.get(f"http://127.0.0.1:{port}/")
                    assert answer.content == ANSWER
            async with asyncio.timeout(20):
                while budget.held:
                    await asyncio.sleep(0.05)
            read = 0
            with suppress(ConnectionResetError):
                while more := await reader.read(1 << 20):
                    read += len(more)
            assert read < len(ANSWER)
            writer.close()

    asyncio.run(check())
    assert not caplog.records


def test_too_many_clients_are_refused_as_any_other_request_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge, "MOST_CONNECTIONS", 2)
    metrics = Metrics(Pool("none", ("cpu",), Limits(), None))

    async def check() -> None:
        async with answering(Budget(1 << 30), metrics) as port:
            clients = [httpx.AsyncClient(trust_env=False) for _ in range(3)]
            url = f"http://127.0.0.1:{port}/"
            answers = [await one.get(url) for one in clients[:2]]
            answers.append(await clients[2].post(url, content=bytes(1 << 20)))
            assert [one.status_code for one in answers] == [200, 200, 503]
            message = "Too many clients are connected; ask again."
            assert answers[2].json() == {"error": {"status": 503, "message": message}}
            assert answers[2].headers["retry-after"] == "1"
            await clients[0].aclose()
            async with asyncio.timeout(20):
                while (await clients[2].get(url)).status_code == 503:
                    await asyncio.sleep(0.05)
            for one in clients[1:]:
                await one.aclose()

    asyncio.run(check())
    assert 'status="503"' in metrics.text().decode()
