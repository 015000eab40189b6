"""Refuses requests from other pages in a browser, and requests without a key where keys are set.

A browser sends requests to this machine for any page that it shows, and names their origin
(``Origin``, ``Sec-Fetch-Site``) and host (``Host``). Checking the host stops DNS rebinding.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from segops.serve.errors import RequestError
from segops.serve.replies import error_reply

OPEN = ("/", "/health", "/ready", "/openapi.json")
"""What needs no key: the page asks for the key itself, and probes have none."""
OPEN_BELOW = "/page/"
NO_OTHER_PAGE = "Requests from other web pages are refused."


def refusal(
    scope: Scope, hosts: Collection[str] | None, origins: Collection[str] = ()
) -> str | None:
    """Return why a request is refused by its host or origin, in a sentence; None: it is not.

    Args:
        scope: The ASGI request.
        hosts: Allowed values of ``Host``, in lower case: `NAME:PORT`, or `NAME` for the scheme's
            default port; None: any.
        origins: Origins of other pages that may ask, in lower case.
    """
    headers = Headers(scope=scope)
    named = headers.getlist("host")
    if len(named) != 1:
        return "A request names one host, in one header `Host`."
    if hosts is not None and named[0].lower() not in hosts:
        return f"This server answers to {', '.join(sorted(hosts))} alone."
    own = {f"{scheme}://{named[0].lower()}" for scheme in ("http", "https")}
    asking = {origin.lower() for origin in headers.getlist("origin")}
    if asking and asking <= set(origins):
        return None
    if asking - own:
        return NO_OTHER_PAGE
    if set(headers.getlist("sec-fetch-site")) <= {"none", "same-origin"}:
        return None
    # A link that a person follows; the linking page cannot read the answer.
    is_link = (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    return None if is_link else NO_OTHER_PAGE


class Keys:
    """The keys of clients; only their hashes are kept.

    Args:
        keys: The keys; none: every request is answered.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_hash(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def knows(self, headers: Headers) -> bool:
        """Whether a request holds a key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        found = _hash(given.strip())
        # All are compared, so that the time says nothing of the place.
        return any(secrets.compare_digest(found, one) for one in self._hashes)

    def stranger(self, scope: Scope) -> RequestError | None:
        """Return the error of a request that lacks a key and needs one, else None."""
        path = scope["path"]
        is_open = not self or path in OPEN or path.startswith(OPEN_BELOW)
        if is_open or self.knows(Headers(scope=scope)):
            return None
        return RequestError(
            401,
            "This server asks for a key: Authorization: Bearer KEY, or X-API-Key: KEY.",
            {"WWW-Authenticate": "Bearer"},
        )


class Guard:
    """Refuses a request, HTTP or websocket, before the server sees it.

    Args:
        app: The server.
        hosts: As of :func:`refusal`, like `origins`.
        stranger: Returns the error of a request without the credentials that it needs, else None.
        origins: Origins of other pages that may ask.
        reply: Makes the answer of an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,
        stranger: Callable[[Scope], RequestError | None],
        origins: Collection[str] = (),
        reply: Callable[[RequestError], Response] = error_reply,
    ) -> None:
        self._app, self._stranger, self._reply = app, stranger, reply
        self._hosts, self._origins = hosts, frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        error = None if scope["type"] == "lifespan" else self._error(scope)
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": error.message})
        else:
            await self._reply(error)(scope, receive, send)

    def _error(self, scope: Scope) -> RequestError | None:
        why = refusal(scope, self._hosts, self._origins)
        return self._stranger(scope) if why is None else RequestError(403, why)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
