"""What answers in the place of a server: errors, a page of somebody else's, nothing."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Answers(http.server.BaseHTTPRequestHandler):
    status, content = 500, b"Internal Server Error"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Page(_Answers):
    status, content = 200, b"<html>Please log in</html>"


@contextmanager
def faulty(kind: str, port: int = 0) -> Iterator[str]:
    """The address of what answers in the place of a server of MLflow's or Prefect's.

    `kind`: `status 500`, `page of a proxy`, `silent` or `refusing`. `port`: 0 takes a free one.
    """
    if kind in ("status 500", "page of a proxy"):
        handler = _Answers if kind == "status 500" else _Page
        with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
        return
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        if kind == "silent":
            bound.listen()  # it takes connections and says nothing
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
