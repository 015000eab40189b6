"""Tells whether a server answers, sooner than the clients of servers give up."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

SECONDS = 4.0
"""How long a server may take to accept a connection, and again to answer."""
DATABASES = {"postgresql": (5432, bytes.fromhex("0000000804d2162f")), "mysql": (3306, b"")}
"""Per scheme: usual port, and what a client sends first (PostgreSQL: an SSLRequest)."""


def silence(address: str, path: str = "") -> str | None:
    """Return why nothing answers at an address; None where something does, be it a refusal.

    No credentials are sent. The environment's proxies apply, as they do to HTTP clients. It takes
    ten seconds at the most, also where a name is not resolved or an answer does not end.

    Args:
        address: ``SCHEME://HOST:PORT/...``. An address of another scheme than HTTP, PostgreSQL and
            MySQL, or of a socket, is not asked.
        path: Path below an HTTP address that is cheap to answer.
    """
    found: list[str | None] = []
    # A daemon: one that hangs does not keep the process from its end.
    asking = threading.Thread(target=lambda: found.append(_silence(address, path)), daemon=True)
    asking.start()
    asking.join(limit := 2 * SECONDS + 1)
    return found[0] if found else f"no answer within {limit:.0f} s"


def _silence(address: str, path: str) -> str | None:
    scheme = address.partition("://")[0].partition("+")[0].lower()
    if scheme in ("http", "https"):
        return _http(address, path)
    return _database(address, *DATABASES[scheme]) if scheme in DATABASES else None


def _http(address: str, path: str) -> str | None:
    import httpx

    try:
        parts = urlsplit(address)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        # Only whether it answers; its client checks its certificate.
        httpx.get(bare.geturl().rstrip("/") + path, timeout=SECONDS, verify=False)
    except httpx.TimeoutException:
        return f"no answer within {SECONDS:.0f} s"
    except httpx.HTTPError as error:
        return str(error).rstrip(".") or type(error).__name__
    except (httpx.InvalidURL, ValueError):
        return "not a valid address"  # its error would show a part, which may be a password
    return None


def _database(address: str, usual_port: int, first: bytes) -> str | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return None  # its client names the mistake
    if not url.host:
        return None
    try:
        with socket.create_connection((url.host, url.port or usual_port), SECONDS) as connection:
            connection.sendall(first)
            connection.recv(1)
    except TimeoutError:
        return f"no answer within {SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, OverflowError):  # a name or a port that there cannot be
        return "not a valid address"
    return None
