"""Refuses requests to a server from other pages in a browser; programs and its own page may ask.

See :func:`segops.serve.guard.refusal`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segops.serve.guard import refusal

POLICY = (
    "frame-ancestors 'none'; connect-src 'self'; img-src 'self' data: blob:; form-action 'self'"
)
HEALTH = "/health"
"""What anybody may ask a server that asks for a login: whether it works."""


class Guard:
    """Refuses a request, HTTP or websocket, before the server sees it.

    Args:
        app: The server.
        hosts: Allowed values of ``Host``: `NAME:PORT`, or `NAME` for the scheme's default port.
        login: `NAME:PASSWORD` that it asks for; None where the server itself asks for credentials.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], login: str | None = None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._login = None if login is None else b"Basic " + base64.b64encode(login.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        why = refusal(scope, self._hosts)
        if why is None and self._is_known(scope):
            await self._app(scope, receive, _with_policy(send))
        elif why is None and scope["type"] == "http":
            asks = {"WWW-Authenticate": 'Basic realm="segops"'}
            answer = PlainTextResponse("Log in.\n", status_code=401, headers=asks)
            await answer(scope, receive, _with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why or "Log in."})
        else:
            await PlainTextResponse(f"{why}\n", status_code=403)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if self._login is None or scope["path"] == HEALTH:
            return True
        given = Headers(scope=scope).get("authorization", "")
        return secrets.compare_digest(given.encode("latin-1"), self._login)


def _with_policy(send: Send) -> Send:
    async def without_sharing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [header for header in headers if header.startswith("access-control-")]:
                del headers[name]
            # No other page may frame this page, and this page may ask no other address.
            headers["content-security-policy"] = POLICY
        await send(message)

    return without_sharing
