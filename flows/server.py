"""Starts Prefect and MLflow servers that ask for credentials and refuse requests from other pages.

A server runs in a separate process, :mod:`flows.server_process`, on a socket that is bound here, so
that no other process can take its port; requests wait until it is ready. Prefect is imported late,
so that a server starts while this process imports it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from segops import files
from segops.operate import schedules, surroundings
from segops.runtime.errors import SegopsError

LOOPBACK = "127.0.0.1"
PORT = 4200
START_SECONDS = 120.0
"""The first start after an installation takes long, because no file is cached."""
END_SECONDS = 10.0
TAIL = 8192
"""Bytes of a server's output that are kept."""
BEATS = "flows.heartbeat_frequency"
"""Prefect's setting of the seconds between two heartbeats of a run."""
Kind = Literal["prefect", "mlflow"]
NAMES: dict[Kind, tuple[str, str]] = {
    "prefect": ("Prefect", "/api/health"),
    "mlflow": ("MLflow", "/health"),
}
"""Per kind of server: its name, and the path that says whether it works."""
log = logging.getLogger("segops")


class Server:
    """A guarded server in a child process.

    The child reads a pipe from this process and ends as soon as this process ends in any way.

    Args:
        port: Port on 127.0.0.1; 0: a free port.
        once: It serves a single run: no page, no schedules.
        kind: `prefect`, or `mlflow` with the record that ``MLFLOW_BACKEND_STORE_URI`` names.

    Raises:
        SegopsError: The port is taken.
    """

    def __init__(self, port: int = 0, *, once: bool = False, kind: Kind = "prefect") -> None:
        self.name, health = NAMES[kind]
        with ExitStack() as handed_over:
            bound = handed_over.enter_context(_bound(LOOPBACK, port))
            port = bound.getsockname()[1]
            kept = [bound.fileno()]
            if not once:
                kept.append(_claim(LOOPBACK, port))
                handed_over.callback(os.close, kept[-1])
            self.address = f"http://{LOOPBACK}:{port}"
            self._health = f"{self.address}{health}"
            self._process = subprocess.Popen(
                _command(bound, kind, "--tied", *(["--once"] if once else [])),
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=kept,
                start_new_session=True,  # Ctrl-C is for this process, which ends the server last
            )
        self._tail = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Keep the end of what the server prints, as long as it lives."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while chunk := os.read(output.fileno(), TAIL):
                self._tail = (self._tail + chunk)[-TAIL:]

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs."""
        return self._process.poll() is None

    def await_start(self) -> None:
        """Wait until the server answers.

        Raises:
            SegopsError: It does not start.
        """
        import httpx

        try:
            httpx.get(self._health, timeout=START_SECONDS, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise SegopsError(
                f"{self.address}: the {self.name} server did not start: {self.last_line() or error}"
            ) from None

    def last_line(self) -> str:
        """Return the last line that it printed; empty if it printed none."""
        if not self.is_running:
            self._reader.join(END_SECONDS)
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def stop(self) -> None:
        """Stop the server; it gets time to finish its work."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.write(b".")
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_SECONDS)


@contextmanager
def for_one_run() -> Iterator[Callable[[], None]]:
    """Provide a server for a single run.

    It is the server of ``PREFECT_API_URL`` or of the Prefect profile. If neither names a server, a
    server is started on a free port and ended with the block.

    Yields:
        A function that waits until the server answers.

    Raises:
        SegopsError: The server does not answer, or takes other credentials.
    """
    server = None if os.environ.get("PREFECT_API_URL") else Server(once=True)
    try:
        from prefect.settings import PREFECT_API_URL

        if configured := PREFECT_API_URL.value():
            with _using_configured(configured), _watched():
                yield lambda: None
        else:
            assert server is not None
            # No heartbeats: this server ends with the run, and the last heartbeat takes a second.
            # This server has no page; `segops ui prefect` shows the run.
            own = {BEATS: None, "ui_url": _page(PORT)}
            with _using(f"{server.address}/api", own):
                try:
                    yield server.await_start
                finally:
                    deliver()
    finally:
        if server is not None:
            server.stop()


@contextmanager
def _watched() -> Iterator[None]:
    """Let the server mark a run of the block as crashed when this process ends before it."""
    from prefect import tags
    from prefect.settings import temporary_settings

    from segops.operate import crashes

    with tags(crashes.TAG), temporary_settings({BEATS: crashes.HEARTBEAT_SECONDS}):
        yield


@contextmanager
def for_schedules() -> Iterator[Server | None]:
    """Provide a server that can schedule runs.

    It is the server of ``PREFECT_API_URL`` or of the Prefect profile, else this user's server on
    port 4200 of this machine, else a server that is started there and ended with the block.

    Yields:
        The server that was started; None where another process's is used.

    Raises:
        SegopsError: The server does not answer, or takes other credentials, or the port is taken.
    """
    from prefect.settings import PREFECT_API_URL

    if configured := PREFECT_API_URL.value():
        with _using_configured(configured):
            yield None
        return
    address, server = f"http://{LOOPBACK}:{PORT}", None
    if not is_own(PORT):
        log.info("Starting a Prefect server on %s", address)
        server = Server(PORT)
    try:
        if server is not None:
            server.await_start()
        from flows.credentials import whereabouts

        log.info("Prefect page: %s (to log in, enter %s)", address, whereabouts())
        with _using(f"{address}/api", {"ui_url": _page(PORT)}):
            yield server
    finally:
        if server is not None:
            server.stop()


@contextmanager
def for_questions() -> Iterator[None]:
    """Provide a server that knows what was scheduled: one that runs, else a temporary one.

    Raises:
        SegopsError: The server does not answer, or takes other credentials.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() or not is_own(PORT):
        with for_one_run() as await_server:
            await_server()
            yield
        return
    with _using(f"http://{LOOPBACK}:{PORT}/api"):
        yield


def become_server(
    host: str,
    port: int,
    allowed_hosts: Sequence[str],
    say: Callable[[str], None],
    kind: Kind = "prefect",
) -> NoReturn:
    """Turn this process into a server with its page, until it is stopped.

    Args:
        host: Address to listen on.
        port: Its port.
        allowed_hosts: Allowed values of a request's ``Host`` besides this machine's own names.
        say: Called with each line to print.
        kind: As for :class:`Server`.

    Raises:
        SegopsError: The port is taken, or the credentials are not usable.
    """
    from flows.credentials import credentials, whereabouts

    credentials()  # generates them before the page asks for them
    bound = _bound(host, port)
    for handle in (bound.fileno(), _claim(host, port)):
        os.set_inheritable(handle, True)
    shown = LOOPBACK if host == "0.0.0.0" else host
    say(f"{NAMES[kind][0]} page: http://{shown}:{port} (Ctrl-C ends it)")
    say(f"To log in, enter {whereabouts()}.")
    command = _command(bound, kind, *(word for one in allowed_hosts for word in ("--host", one)))
    os.execve(command[0], command, _environment())


def _page(port: int) -> str:
    """Return the address for the links that Prefect prints: a page that asks for the login."""
    return f"http://{LOOPBACK}:{port}/v2"


def is_own(port: int) -> bool:
    """Whether a server of this user listens on a port of 127.0.0.1.

    Credentials are sent to no other server, because any user of the machine may listen on a port.
    """
    return files.is_held(_claim_path(LOOPBACK, port))


def _claim(host: str, port: int) -> int:
    """Lock a port for the server process, which inherits the lock; it ends with that process."""
    path = _claim_path(host, port)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + END_SECONDS
    while True:  # a server that ends frees its port a moment before its lock
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(handle)
                raise SegopsError(
                    f"{path}: another server of yours holds {host}:{port}. Stop it, or "
                    "choose another port."
                ) from None
            time.sleep(0.1)
        else:
            return handle


def _claim_path(host: str, port: int) -> Path:
    from prefect.settings import PREFECT_HOME

    address = LOOPBACK if host in ("0.0.0.0", "localhost") else host  # 0.0.0.0 includes loopback
    name = f"segops-server-{socket.gethostname()}-{address}-{port}.lock"
    return Path(PREFECT_HOME.value()) / name


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise SegopsError(
            f"{host}:{port}: {error.strerror}. Stop what listens there, or choose another port; a "
            "Prefect server that is not segops' own is named by PREFECT_API_URL."
        ) from None
    return bound


def _command(bound: socket.socket, kind: Kind, *options: str) -> list[str]:
    # -P: a module in the working directory must not replace one of ours.
    command = [sys.executable, "-P", "-m", "flows.server_process"]
    of_kind = ["--mlflow"] if kind == "mlflow" else []
    return [*command, str(bound.fileno()), *of_kind, *options]


def _environment() -> dict[str, str]:
    """Return the environment with this checkout on the path.

    The working directory stays, because Prefect reads settings there.
    """
    checkout = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([checkout, *([path] if path else [])])}


@contextmanager
def _using_configured(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    parts = urlsplit(url)
    has_own = PREFECT_API_AUTH_STRING.value() or PREFECT_API_KEY.value()
    is_local = parts.hostname in (LOOPBACK, "localhost") and is_own(parts.port or 80)
    with _using(url if is_local and not has_own else None):
        _require(url)
        yield


@contextmanager
def _using(url: str | None, more: dict[str, Any] | None = None) -> Iterator[None]:
    """Point this process's Prefect clients at a server of this user; None: keep their settings."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.credentials import credentials

    if url is None:
        yield
        return
    own = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: credentials()}
    with temporary_settings({**own, **(more or {})}):
        yield


def deliver() -> None:
    """Send the log lines and events that wait in this process to the server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=END_SECONDS)


def _require(url: str) -> None:
    """Raise if a server does not answer or refuses our credentials."""
    import httpx
    from prefect.client.orchestration import get_client

    surroundings.require_prefect(url)
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        hint = (
            "Set PREFECT_API_AUTH_STRING to its credentials."
            if status in (401, 403)
            else "Is it a Prefect server?"
        )
        raise SegopsError(f"{url}: the server answers with status {status}. {hint}") from None
    except httpx.HTTPError as error:
        raise SegopsError(
            f"{url}: no Prefect server answers ({error}). Start it, or unset PREFECT_API_URL."
        ) from None
    except schedules.NO_PREFECT:
        raise SegopsError(
            f"{url}: what answers there is no Prefect server; it may be the login page of a proxy. "
            "Open the address in a browser, and correct or unset PREFECT_API_URL."
        ) from None
