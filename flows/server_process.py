"""The process of a guarded Prefect or MLflow server; :mod:`flows.server` starts it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
import threading
import time
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from segops.operate import crashes
from segops.params.notify import HISTORY_HOURS
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

HTTP_PORT = 80
KEPT = timedelta(hours=HISTORY_HOURS)
"""Time that ended runs are kept, with their logs and artifacts; Prefect keeps events for a week."""
GRACE_SECONDS = 5.0
"""Time that a stopping server has to finish its work."""


def main() -> None:
    """Serve on a socket that the parent has bound.

    The credentials come from the settings that the clients use too, so no argument is secret.
    """
    parser = argparse.ArgumentParser(prog="flows.server_process")
    parser.add_argument("socket", type=int, help="File descriptor of the bound socket.")
    parser.add_argument("--mlflow", action="store_true", help="Serve MLflow's record and page.")
    parser.add_argument("--once", action="store_true", help="Serve a single run: no page.")
    parser.add_argument("--tied", action="store_true", help="End when the parent process ends.")
    parser.add_argument("--host", action="append", default=[], help="Also answer to this Host.")
    arguments = parser.parse_args()
    serving: list[uvicorn.Server] = []
    if arguments.tied:
        threading.Thread(target=_end_with_standard_input, args=(serving,), daemon=True).start()
    # Collecting during the imports scans many objects, frees none and takes a sixth of the start.
    gc.disable()
    login = None
    if arguments.mlflow:
        from flows.credentials import credentials
        from segops.record.page import application

        app, login = application(), credentials()
    else:
        app = _app(arguments.once)
    if app is None:
        return
    gc.freeze()
    gc.enable()
    bound = socket.socket(fileno=arguments.socket)
    address, port = bound.getsockname()
    from flows.guard import guarded

    names = (address, "127.0.0.1", "localhost")
    hosts = [f"{name}:{port}" for name in names]
    if port == HTTP_PORT:  # browsers leave this port out of Host
        hosts += names
    shown = "127.0.0.1" if address == "0.0.0.0" else address
    server = _Server(
        uvicorn.Config(
            guarded(app, [*hosts, *arguments.host], login),
            lifespan="on",
            log_level="warning",
            proxy_headers=False,
            timeout_graceful_shutdown=int(GRACE_SECONDS) // 2,
        ),
        watch=None if arguments.mlflow or arguments.once else f"http://{shown}:{port}/api",
    )
    serving.append(server)
    server.run(sockets=[bound])


class _Server(uvicorn.Server):
    """A server that, as Prefect's with schedules, lets runs be watched once it answers.

    Args:
        config: Of the server.
        watch: The address of Prefect's API; None: another server, or one for a single run.
    """

    def __init__(self, config: uvicorn.Config, watch: str | None) -> None:
        super().__init__(config)
        self._watch = watch

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then install the automation in a thread, whose requests this thread answers."""
        await super().startup(sockets)
        if self._watch is not None and not self.should_exit:
            threading.Thread(target=_watch_runs, args=(self._watch,), daemon=True).start()


def _watch_runs(url: str) -> None:
    """Install the automation that marks crashed runs, where the server has none."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from flows.credentials import credentials
    from segops.operate import schedules

    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: credentials()}):
        try:
            with schedules.client() as asked:
                if not asked.read_automations_by_name(crashes.NAME):
                    crashes.install(asked)
        except SegopsError as error:
            print(f"Runs whose process dies are not marked as crashed: {error}", file=sys.stderr)  # noqa: T201


def _app(once: bool) -> ASGIApp | None:
    """Return Prefect's server; None if the user has configured a server for a single run."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING

    if once and PREFECT_API_URL.value():
        return None
    from prefect.context import refresh_global_settings_context

    from flows.credentials import credentials

    expected = credentials()
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = expected
    os.environ["PREFECT_SERVER_UI_API_URL"] = "/api"  # the page asks its own server
    # Not in the installation, which may belong to another user.
    os.environ.setdefault(
        "PREFECT_SERVER_UI_STATIC_DIRECTORY", str(Path(PREFECT_HOME.value()) / "segops-ui")
    )
    _bound_history()
    _let_writers_wait()
    refresh_global_settings_context()
    if PREFECT_SERVER_API_AUTH_STRING.value() != expected:
        raise SegopsError("Prefect's server does not take its credentials; it is not started.")
    from prefect.server.api.server import create_app

    if once:  # Prefect's temporary servers remove old events alone
        from prefect.server.services.db_vacuum import schedule_vacuum_tasks
        from prefect.server.services.perpetual_services import perpetual_service

        perpetual_service(enabled_getter=lambda: True, run_in_ephemeral=True)(schedule_vacuum_tasks)
    else:
        asyncio.run(_wait_for_heartbeats())
    return create_app(ephemeral=once)


async def _wait_for_heartbeats() -> None:
    """Let the runs that are watched be silent for the allowed time from now on.

    While no server ran they could send no heartbeat; Prefect would mark them as crashed at once.
    """
    import sqlalchemy
    from prefect.server.database import provide_database_interface

    database = provide_database_interface()
    buckets, automations = database.AutomationBucket, database.Automation
    named = sqlalchemy.select(automations.id).where(automations.name == crashes.NAME)
    now = datetime.now(UTC)
    # A new database has no tables yet; the start of the server tells what else is wrong with it.
    with suppress(sqlalchemy.exc.DBAPIError):
        async with database.session_context(begin_transaction=True) as session:
            waiting = sqlalchemy.select(buckets).where(buckets.automation_id.in_(named))
            for one in await session.scalars(waiting):
                one.start, one.end = now, now + (one.end - one.start)
    await (await database.engine()).dispose()


def _let_writers_wait() -> None:
    """Take SQLite's write lock as a transaction begins.

    A transaction that reads and then writes fails at once, "database is locked", where another one
    has written in between. Prefect drops an event after four such failures: a run that was killed
    then stays "Running".
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediately(
        database: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        return begin(database, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediately  # type: ignore[assignment, method-assign]


def _bound_history() -> None:
    """Have the server remove old runs, unless the user has set how long it keeps them."""
    from prefect.settings import get_current_settings

    present = get_current_settings().server.services.db_vacuum.model_fields_set
    for name, value in (
        ("enabled", "events,flow_runs"),
        ("retention_period", str(int(KEPT.total_seconds()))),
        ("event_retention_overrides", f'{{"prefect.flow-run.heartbeat": {24 * 3600}}}'),
    ):
        if name not in present:
            os.environ[f"PREFECT_SERVER_SERVICES_DB_VACUUM_{name.upper()}"] = value


def _end_with_standard_input(serving: list[uvicorn.Server]) -> None:
    """Stop the server when the parent sends a byte; end at once when the parent ends."""
    if os.read(0, 1) and serving and serving[0].started:
        serving[0].should_exit = True
        time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    try:
        main()
    except SegopsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(1)
