"""An HTTP server on the loopback device that serves bytes and misbehaves when told to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Server:
    """What is served and how.

    Attributes:
        files: Content by path ("/voc/a.tar").
        ranges: Whether ``Range`` is honoured.
        etag: Sent as ``ETag`` and compared with ``If-Range``.
        digests: Send each file's SHA-256 as its ``ETag``, as the hub does.
        cuts: For each request in turn, after how many bytes of the body the connection breaks;
            None: it holds.
        statuses: For each request in turn, a status to answer with instead; None: the usual.
        shift: The answer to a range starts so many bytes later than asked.
        headers: More headers of every answer.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = None
    digests: bool = False
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    shift: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Server]:
    """Serve until the block ends."""
    state = Server()
    handler = type("Bound", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[Server]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.state
        request = Request(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
        state.requests.append(request)
        self.close_connection = True
        content = state.files.get(self.path)
        status = state.statuses.pop(0) if state.statuses else None
        if status is not None or content is None:
            self._answer(request, status or 404, b"", {})
            return
        start = 0
        headers = dict(state.headers)
        if state.etag:
            headers["ETag"] = state.etag
        if state.digests:
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        found = re.fullmatch(r"bytes=(\d+)-", request.range or "")
        if found and state.ranges and request.if_range in (None, state.etag):
            start = int(found[1]) + state.shift
            if start >= len(content):
                self._answer(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(request, 206 if "Content-Range" in headers else 200, content[start:], headers)

    def _answer(self, request: Request, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.status = status
        cut = self.state.cuts.pop(0) if self.state.cuts else None
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        request.sent = len(body[:cut])
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
