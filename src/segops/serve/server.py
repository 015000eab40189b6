"""Runs the server until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from segops import files
from segops.runtime.errors import SegopsError
from segops.serve.body import Budget
from segops.serve.edge import MOST_CONNECTIONS, Edge, Protocol
from segops.serve.guard import Guard, Keys
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool
from segops.serve.serving import Serving, library
from segops.serve.settings import Settings

HTTP_PORT = 80
STOPS = (signal.SIGINT, signal.SIGTERM)
OPEN_FILES = 4 * MOST_CONNECTIONS
"""Connections above the limit are answered too, with 503."""
KEEP_ALIVE_SECONDS = 30
HELD_BODIES = 16
"""Bodies of the largest size that the server holds at a time, or more smaller ones."""
log = logging.getLogger("segops")


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until a signal stops it: then requests under way are answered first.

    Args:
        settings: How to serve.
        say: Called with each line to print.

    Raises:
        SegopsError: The port is taken, or the model cannot be served.
    """
    imported = library(settings)
    bound = _bound(settings.host, settings.port)
    _raise_open_files()
    stopped: list[int] = []
    for number in STOPS:
        signal.signal(number, lambda stop, _: stopped.append(stop))
    with bound, files.scratch() as place:
        asyncio.run(_serve(settings, imported, bound, place, say, stopped))


def _raise_open_files() -> None:
    """Let all connections and workers be open at a time; a usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:
        most = OPEN_FILES if hard < 0 else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _serve(
    settings: Settings,
    imported: str,
    bound: socket.socket,
    place: Path,
    say: Callable[[str], None],
    stopped: list[int],
) -> None:
    pool = Pool(
        imported,
        settings.devices,
        settings.limits,
        None if settings.log is None else str(settings.log.resolve()),
        settings.threads,
    )
    metrics = Metrics(pool)
    serving = Serving(settings, pool, metrics, place)
    following = asyncio.create_task(serving.run())
    try:
        port = bound.getsockname()[1]
        # Meanwhile the processes that `serving` starts import their libraries.
        routes = await asyncio.to_thread(app, settings, pool, metrics, port)
        server = uvicorn.Server(
            uvicorn.Config(
                routes,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(settings.limits.deadline) + 5,
            )
        )
        for number in STOPS:
            # As uvicorn does while it serves; it raises them again once it has stopped.
            signal.signal(number, server.handle_exit)
        if not stopped:
            shown = f"[{settings.host}]" if ":" in settings.host else settings.host
            say(f"Serving on http://{shown}:{port} (Ctrl-C ends it)")
            following.add_done_callback(partial(_end_if_failed, server))
            await server.serve(sockets=[bound])
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await following
        await pool.end()
    if not following.cancelled() and (error := following.exception()):
        raise error


def _end_if_failed(server: uvicorn.Server, following: asyncio.Task[None]) -> None:
    """End the server if the first models cannot be served."""
    if not following.cancelled() and following.exception() is not None:
        server.should_exit = True


def app(settings: Settings, pool: Pool, metrics: Metrics, port: int) -> ASGIApp:
    """Return the routes behind all that refuses a request."""
    from segops.serve.app import application

    keys = Keys(settings.keys)
    # A page that came under another name (DNS rebinding) knows no key, so any host may be named.
    hosts = None if keys else allowed_hosts(settings.host, port)
    budget = Budget(HELD_BODIES * pool.limits.max_body)
    routes = application(pool, metrics, settings.record, budget)
    guarded: ASGIApp = Guard(routes, hosts, keys.stranger, settings.cors)
    if settings.cors:
        guarded = CORSMiddleware(  # outside, so that a page can read why it is refused
            guarded,
            allow_origins=settings.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "x-api-key", "content-type"],
            expose_headers=["segops-model", "segops-confidence", "retry-after"],
        )
    return Edge(guarded, metrics, budget)


def allowed_hosts(host: str, port: int) -> set[str]:
    """Return the values of ``Host`` that a server on this machine answers to."""
    names = {f"[{host}]" if ":" in host else host, "127.0.0.1", "localhost", "[::1]"}
    hosts = {f"{name}:{port}" for name in names}
    return hosts | names if port == HTTP_PORT else hosts


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SegopsError(f"--host {host}: no address of this machine: {error.strerror}.") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SegopsError(
            f"{host}:{port}: {error.strerror}. Stop what listens there, or choose another --port."
        ) from None
    return bound
