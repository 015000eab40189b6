"""Refuses requests to a server from other pages in a browser; programs and its own page may ask.

See :func:`segops.serve.guard.refusal`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segops.serve.errors import RequestError
from segops.serve.guard import Guard

POLICY = (
    "frame-ancestors 'none'; connect-src 'self'; img-src 'self' data: blob:; form-action 'self'"
)
HEALTH = "/health"
"""What anybody may ask a server that asks for a login: whether it works."""


def guarded(app: ASGIApp, hosts: Iterable[str], login: str | None = None) -> ASGIApp:
    """Return a server behind a :class:`segops.serve.guard.Guard`, with a policy for browsers.

    Args:
        app: The server.
        hosts: Allowed values of ``Host``: `NAME:PORT`, or `NAME` for the scheme's default port.
        login: `NAME:PASSWORD` that it asks for; None where the server itself asks for credentials.
    """
    known = None if login is None else b"Basic " + base64.b64encode(login.encode())

    def stranger(scope: Scope) -> RequestError | None:
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if known is None or scope["path"] == HEALTH or secrets.compare_digest(given, known):
            return None
        return RequestError(401, "Log in.", {"WWW-Authenticate": 'Basic realm="segops"'})

    def reply(error: RequestError) -> Response:
        return PlainTextResponse(f"{error.message}\n", error.status, error.headers)

    guard = Guard(app, {host.lower() for host in hosts}, stranger, reply=reply)

    async def with_policy(scope: Scope, receive: Receive, send: Send) -> None:
        await guard(scope, receive, _with_policy(send))

    return with_policy


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
