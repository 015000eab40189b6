"""Serves the flow of retraining, with approvals, or of monitoring on a schedule, until stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic import ValidationError

from flows import server
from flows.approve import approve
from flows.monitor import monitor
from flows.retrain import retrain
from flows.signals import SIGNALS, stopped_by_signals
from segops.operate import automations, crashes, schedules
from segops.params.file import load_params
from segops.runtime.errors import SegopsError, TransientError

KEEP_SECONDS = 3.0
"""Time between two looks at whether the schedule is still this process's."""
PRUNE_EVERY = 20
"""Looks between two prunings of runs that wait."""
log = logging.getLogger("segops")


def serve(
    root: Path,
    cron: str,
    timezone: str,
    *,
    name: str = schedules.DEFAULT,
    replace: bool = False,
    catch_up: bool = True,
    monitoring: bool = False,
) -> None:
    """Serve the flow on a schedule until stopped by a signal, or until the schedule is removed.

    A stop cancels the run in progress and leaves the schedule paused.

    Args:
        root: The workspace.
        cron: A cron expression of five fields.
        timezone: Name of the time zone of the expression.
        name: Of the schedule; a server has it once.
        replace: Take the schedule over from the process that serves it, which then ends.
        catch_up: Whether the newest run whose time has passed is made; the others are cancelled.
        monitoring: Serve the flow of monitoring, and no other.

    Raises:
        SegopsError: The expression, the time zone or the name is not valid, no server answers, the
            schedule is another process's, or there is nothing to monitor.
    """
    schedules.require_name(name)
    _require_valid(cron, timezone)
    settings = load_params(root) if monitoring else None
    if settings is not None:
        settings.monitor.require_path()
    with stopped_by_signals(), server.for_schedules() as own, ExitStack() as undone:
        owner = schedules.Owner.this_process(str(root))
        with schedules.client() as asked:
            schedules.require_flow(
                asked, name, schedules.MONITOR if monitoring else schedules.RETRAIN
            )
            claimed, ending = schedules.claim(asked, name, owner, replace)
            undone.callback(_give_back, name, claimed)
            if ending is not None:
                schedules.await_end(asked, name, ending)
        about = f"{'Monitors' if monitoring else 'Retrains'} {root}. Served by {owner.words}."
        served: Any = monitor if monitoring else retrain
        scheduled = served.to_deployment(
            name=name,
            schedule=Cron(cron, timezone=timezone),
            concurrency_limit=1,
            paused=False,
            description=about,
            tags=[crashes.TAG],
        )
        approval: Any = approve.to_deployment(
            name=schedules.approvals(name),
            concurrency_limit=1,
            description=about,
            tags=[crashes.TAG],
        )
        beside = None if monitoring else approval
        while True:
            try:
                if settings is not None:
                    with schedules.client() as asked:
                        automations.put_drift(asked, settings)
                _serve_once(name, claimed, scheduled, beside, catch_up)
                return
            except (ExceptionGroup, RuntimeError, httpx.HTTPError, TransientError) as error:
                _await_server(own, error)


def _serve_once(name: str, claimed: UUID, scheduled: Any, approval: Any, catch_up: bool) -> None:
    """Serve the flow, and that of approvals where there is one, until stopped.

    Raises:
        RuntimeError: Prefect's runner gave up, because the server does not answer.
    """
    runner = Runner(
        name=f"segops-{name}",
        limit=2,  # one retraining; an approval does not wait for it
        heartbeat_seconds=crashes.HEARTBEAT_SECONDS,
        pause_on_shutdown=False,  # done here, and also in the middle of a run
    )
    added: Any = runner.add_deployment(scheduled)
    deployment: UUID = added
    if approval is not None:
        runner.add_deployment(approval)
    with schedules.client() as asked:
        crashes.install(asked)
        schedules.crash_unbegun(asked, deployment)
        if skipped := schedules.skip_missed(asked, deployment, keep=int(catch_up)):
            log.info("%d missed runs are cancelled.", skipped)
    log.info("Schedule %s is being served; Ctrl-C ends it.", name)
    asyncio.run(_serve(runner, name, claimed, deployment))


def _await_server(own: server.Server | None, error: Exception) -> None:
    """Wait until the Prefect server answers again.

    Raises:
        SegopsError: It is a server of this process, and has ended.
    """
    log.warning("The Prefect server does not answer: %s. The schedule waits for it.", error)
    while True:
        if own is not None and not own.is_running:
            raise SegopsError(
                f"{own.address}: the Prefect server of this schedule has ended. Start the schedule "
                "again; `segops ui prefect` in another process is a server that outlives it."
            )
        time.sleep(KEEP_SECONDS)
        with suppress(SegopsError, httpx.HTTPError), schedules.client() as asked:
            asked.hello()
            return


def _require_valid(cron: str, timezone: str) -> None:
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise SegopsError(
            f"--cron {cron!r} --timezone {timezone!r}: {reasons}. "
            'Expected five fields such as "0 3 * * 1" and a name such as Europe/Berlin.'
        ) from None


async def _serve(runner: Runner, name: str, claimed: UUID, deployment: UUID) -> None:
    """Run the runner until a signal comes or the claim is lost."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    before = {one: signal.getsignal(one) for one in SIGNALS}
    serving = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # the runner sets a handler of its own first
    for one in SIGNALS:
        signal.signal(one, lambda *_: loop.call_soon_threadsafe(stopping.set))
    stopped = asyncio.create_task(stopping.wait())
    keeping = asyncio.create_task(_keep(name, claimed, deployment))
    try:
        await asyncio.wait({serving, stopped, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done() or keeping.done():
            await _end(runner, serving, name, claimed)
        else:
            await serving  # it gave up
    finally:
        stopped.cancel()
        keeping.cancel()
        for one, handler in before.items():
            signal.signal(one, handler)


async def _end(runner: Runner, serving: asyncio.Task[None], name: str, claimed: UUID) -> None:
    """End the runner; the server may be away meanwhile."""
    log.info("Schedule %s is ended; a run in progress is cancelled.", name)
    with suppress(SegopsError):  # _give_back says so
        await asyncio.to_thread(_pause, name, claimed)
    if runner.started:
        await runner.astop()
    else:
        serving.cancel()
    with suppress(asyncio.CancelledError, ExceptionGroup, RuntimeError, httpx.HTTPError):
        await serving


async def _keep(name: str, claimed: UUID, deployment: UUID) -> None:
    """Return when the claim is lost; meanwhile cancel runs that a newer one makes superfluous."""
    looks = 0
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        looks += 1
        try:
            if not await asyncio.to_thread(_look, name, claimed, deployment, looks):
                log.info("Schedule %s was removed or taken over.", name)
                return
        except SegopsError as error:  # the next look may succeed
            log.debug("%s", error)


def _look(name: str, claimed: UUID, deployment: UUID, looks: int) -> bool:
    with schedules.client() as asked:
        if not schedules.holds(asked, name, claimed):
            return False
        if looks % PRUNE_EVERY == 0:
            schedules.skip_missed(asked, deployment)
        return True


def _pause(name: str, claimed: UUID) -> None:
    """Pause the schedule, if it is still this process's."""
    # A process that ends does not wait long for its server.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}), schedules.client() as asked:
        if schedules.holds(asked, name, claimed):
            with suppress(SegopsError):  # it was not yet deployed
                schedules.pause(asked, name)


def _give_back(name: str, claimed: UUID) -> None:
    try:
        _pause(name, claimed)
        with schedules.client() as asked:
            schedules.release(asked, claimed)
    except SegopsError as error:
        log.warning(
            "Schedule %s stays active: %s `segops schedule pause %s` ends it.", name, error, name
        )
