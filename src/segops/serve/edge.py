"""What handles every request first and last: metrics, unread bodies, and the pace of answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from segops.serve.body import GRACE_SECONDS, SLOWEST, Budget
from segops.serve.errors import RequestError
from segops.serve.metrics import Metrics
from segops.serve.replies import error_reply

DRAIN_SECONDS = 10.0
DRAIN_BYTES = 256 << 20
HEAD_SECONDS = 10.0
"""Time that a client has for the head of a request."""
MOST_CONNECTIONS = 1000
"""Open connections above which requests are refused."""
ABORT, CONNECTIONS = "segops.abort", "segops.connections"
"""Keys of a request's state: what closes its connection at once, and all open connections."""
SLICE = 64 << 10
"""Bytes of an answer that are given to the connection at a time."""


class Edge:
    """Counts requests, and reads what a refused request still sends.

    A client reads the answer once it has sent its body; where the connection is closed before, it
    sees a broken connection and not the reason. A client that reads its answer more slowly than an
    upload may come loses its connection, for the answer is in memory until then.

    Args:
        app: The server.
        metrics: What counts.
        budget: Counts the bytes of answers that are being sent.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, budget: Budget) -> None:
        self._app, self._metrics, self._budget = app, metrics, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = _crowded if len(scope["state"].get(CONNECTIONS, ())) > MOST_CONNECTIONS else self._app
        names = {name for name, _ in scope["headers"]}
        unread = bool(names & {b"content-length", b"transfer-encoding"})
        began, status = time.perf_counter(), 500

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if unread:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif content := message.get("body", b""):
                await _in_time(self._pieces(content, send), len(content), scope)
                message = {**message, "body": b""}
            if unread and message["type"] == "http.response.body" and not message.get("more_body"):
                await _drain(reading)
            await _in_time(send(message), 0, scope)

        self._metrics.in_flight.inc()
        try:
            await app(scope, reading, sending)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.request(scope["path"], status, time.perf_counter() - began)

    async def _pieces(self, content: bytes, send: Send) -> None:
        with self._budget.holding(len(content)):
            for at in range(0, len(content), SLICE):
                piece = content[at : at + SLICE]
                # It waits until the client has read most of what was sent before.
                await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    error = RequestError(503, "Too many clients are connected; ask again.", {"Retry-After": "1"})
    await error_reply(error)(scope, receive, send)


async def _in_time(sent: Awaitable[None], size: int, scope: Scope) -> None:
    """Await that `size` bytes are sent; close the connection where the client is too slow."""
    try:
        async with asyncio.timeout(GRACE_SECONDS + size / SLOWEST):
            await sent
    except TimeoutError:
        scope["state"][ABORT]()
        await asyncio.sleep(0)  # uvicorn learns of it, and drops what is sent from now on


async def _drain(receive: Receive) -> None:
    seen = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while seen < DRAIN_BYTES:
                message = await receive()
                seen += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


class Protocol(H11Protocol):
    """HTTP/1.1 that gives a client `HEAD_SECONDS` for the head of a request."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        more = {ABORT: transport.abort, CONNECTIONS: self.connections}
        self.app_state = {**self.app_state, **more}
        self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head is None and self.conn.trailing_data[0]:
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._refuse(408, "The head of the request was not complete in time.")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        reply = error_reply(RequestError(status, message))
        head = h11.Response(
            status_code=status,
            headers=[*reply.raw_headers, (b"connection", b"close")],
            reason=HTTPStatus(status).phrase,
        )
        with suppress(h11.LocalProtocolError):  # the answer to this request has begun
            events = (head, h11.Data(data=bytes(reply.body)), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
