"""Serves the flow of retraining, with approvals, or of monitoring on a schedule, until stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeGuard
from uuid import UUID

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.services import critical_service_loop
from pydantic import ValidationError

from flows import server
from flows.approve import approve
from flows.failures import CLIENT_ERRORS
from flows.monitor import monitor
from flows.retrain import retrain
from flows.signals import SIGNALS, stopped_by_signals
from segops.operate import automations, crashes, missed, schedules
from segops.operate.owner import Owner
from segops.params.file import load_params
from segops.runtime.errors import SegopsError, TransientError

KEEP_SECONDS = 3.0
"""Time between two looks at whether the schedule is still this process's."""
START_SECONDS = 10.0
"""Time that a runner which is stopped as it starts has for its start; its end then tidies up."""
PRUNE_EVERY = 20
"""Looks between two prunings of runs that wait."""
REFUSED = (400, 401, 403, 405, 422)
"""Statuses of a server's answer that do not change with time."""
SERVER_ERRORS = (RuntimeError, OSError, SegopsError, *CLIENT_ERRORS, *schedules.NO_PREFECT)
"""What tells that the server is away, where Prefect's runner or its client ends."""
LOST = "Schedule %s was removed or taken over."
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
        owner = Owner.this_process(str(root))
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
        refused: httpx.HTTPStatusError | None = None
        while True:
            try:
                with schedules.client() as asked:
                    if not schedules.holds(asked, name, claimed):
                        log.info(LOST, name)
                        return
                    if refused is not None:
                        raise _refusal(refused)
                    scheduled.paused = schedules.is_paused(asked, name, about)
                    if settings is not None:
                        automations.put_drift(asked, settings)
                _serve_once(name, claimed, scheduled, beside, catch_up)
                return
            except (
                ExceptionGroup, RuntimeError, TransientError, *CLIENT_ERRORS, *schedules.NO_PREFECT
            ) as error:  # fmt: skip
                refused = _await_server(own, error)


def _serve_once(name: str, claimed: UUID, scheduled: Any, approval: Any, catch_up: bool) -> None:
    """Serve the flow, and that of approvals where there is one, until stopped.

    Raises:
        RuntimeError: Prefect's runner gave up, because the server does not answer.
    """
    _log_retries()
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
        missed.crash_unbegun(asked, deployment)
        if skipped := missed.skip_missed(asked, deployment, keep=int(catch_up)):
            log.info("%d missed runs are cancelled.", skipped)
    log.info("Schedule %s is being served; Ctrl-C ends it.", name)
    asyncio.run(_serve(runner, name, claimed, deployment))


def _log_retries() -> None:
    """Have Prefect's loops log, at DEBUG, the tracebacks that they print where no server answers.

    :func:`_await_server` says in a line why no server answers.
    """
    defaults = critical_service_loop.__defaults__ or ()
    critical_service_loop.__defaults__ = tuple(
        _log_words if one is print else one for one in defaults
    )


def _log_words(words: str = "") -> None:
    log.debug("%s", words.strip())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error of Prefect's runner or client was made from."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _causes(one)
    elif isinstance(error, CLIENT_ERRORS) or error.__cause__ is None:
        yield error
    else:
        yield from _causes(error.__cause__)


def _is_refusal(error: BaseException) -> TypeGuard[httpx.HTTPStatusError]:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED


def _refusal(error: httpx.HTTPStatusError) -> SegopsError:
    said = error.response.text.strip()[:500]
    return SegopsError(
        f"{error.request.url}: the Prefect server refuses a request of this schedule with status "
        f"{error.response.status_code}: {said}. Check its credentials (PREFECT_API_AUTH_STRING) "
        "and that it has this Prefect's version, then start the schedule again."
    )


def _await_server(own: server.Server | None, error: Exception) -> httpx.HTTPStatusError | None:
    """Wait until the Prefect server answers again; return the answer that refused, if one did.

    Raises:
        SegopsError: It is a server of this process, and has ended; or it refuses this process.
        Exception: `error`, where it is no error of the server.
    """
    causes = list(_causes(error))
    for one in causes:
        if not isinstance(one, SERVER_ERRORS):
            raise error
    words = "; ".join(dict.fromkeys(str(one) or type(one).__name__ for one in causes))
    log.warning(
        "The Prefect server does not answer: %s. The schedule waits for it.", words.rstrip(".")
    )
    while True:
        if own is not None and not own.is_running:
            raise SegopsError(
                f"{own.address}: the Prefect server of this schedule has ended. Start the schedule "
                "again; `segops ui prefect` in another process is a server that outlives it."
            )
        time.sleep(KEEP_SECONDS)
        try:
            with schedules.client() as asked:
                asked.hello()
        except TransientError as failed:
            for one in filter(_is_refusal, _causes(failed)):
                raise _refusal(one) from None
        else:
            return next(filter(_is_refusal, causes), None)


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

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(stopping.set)

    before = {one: signal.signal(one, stop) for one in SIGNALS}
    # The runner sets its own handler as it starts: that one raises SystemExit wherever it is then.
    runner.handle_sigterm = stop  # type: ignore[method-assign]
    serving = asyncio.create_task(runner.start())
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
    with suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while not (runner.started or serving.done()):
                await asyncio.sleep(0.05)
    if runner.started:
        await runner.astop()
        # Where no server answers, the runner does not end the processes that it cancels.
        for run in runner._process_manager.flow_run_ids():
            with suppress(ProcessLookupError):
                await runner._process_manager.kill(run)
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
                log.info(LOST, name)
                return
        except SegopsError as error:  # the next look may succeed
            log.debug("%s", error)


def _look(name: str, claimed: UUID, deployment: UUID, looks: int) -> bool:
    with schedules.client() as asked:
        if not schedules.holds(asked, name, claimed):
            return False
        if looks % PRUNE_EVERY == 0:
            missed.skip_missed(asked, deployment)
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
