"""The schedules of a Prefect server: who serves one, and how it is paused or removed.

A Prefect variable per schedule names the process that serves it. A server takes a name once, so of
two schedules that start at the same moment one is refused.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import ValidationError

from segops.operate.missed import waiting
from segops.operate.owner import Owner, is_running
from segops.runtime.errors import SegopsError, TransientError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Variable
    from prefect.client.schemas.responses import DeploymentResponse

RETRAIN, MONITOR = FLOWS = ("retrain", "monitor")
DEFAULT = "scheduled"
PREFIX = "segops_schedule_"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
POLLED = timedelta(seconds=60)
"""A process on another machine asks for runs at least this often."""
ASKING = timedelta(seconds=25)
"""A process on another machine that has not asked for so long has ended, or ends."""
END_SECONDS = 120.0
"""Time that a process has to end after its schedule was taken from it."""
STARTED = timedelta(minutes=2)
"""A process on another machine asks for runs this long after its start, at the latest."""


@dataclass(frozen=True)
class Schedule:
    """A deployment of the flow of retraining or of monitoring.

    Attributes:
        name: Its name.
        flow: Its flow, of :data:`FLOWS`.
        when: Its cron expressions with their time zones; empty without any.
        is_paused: Whether no run is scheduled.
        owner: The process that serves it; None where none has taken it.
        is_served: Whether the owner, or a work pool, can run it now.
        pool: The work pool that runs it; None where a process serves it.
        waiting: Number of its runs whose time has come.
    """

    name: str
    flow: str
    when: str
    is_paused: bool
    owner: Owner | None
    is_served: bool
    pool: str | None
    waiting: int

    @property
    def state(self) -> str:
        """What becomes of it, in words."""
        state = "paused" if self.is_paused else "active"
        waits = f"; {self.waiting} of its runs wait" if self.waiting else ""
        if self.pool is not None:
            return f"{state}; work pool {self.pool} runs it{waits}"
        if self.owner is None:
            return f"{state}; no process serves it{waits}"
        ended = "" if self.is_served else "; its process has ended"
        return f"{state}{ended}: {self.owner.words}{waits}"


NO_PREFECT = (json.JSONDecodeError, ValidationError)
"""What Prefect's client raises where another program answers, such as the login page of a proxy."""


@contextmanager
def client() -> Iterator[SyncPrefectClient]:
    """Yield a client of the configured server.

    Raises:
        TransientError: The server does not answer, or answers with an error.
    """
    import httpx
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as asked:
        try:
            yield asked
        except (httpx.HTTPError, *NO_PREFECT) as error:
            raise TransientError(
                f"{asked.api_url}: the Prefect server does not answer as it should: {error}. "
                "Repeat the command once it runs."
            ) from error


def require_name(name: str) -> None:
    """Refuse a name that a server would not take.

    Raises:
        SegopsError: It has other characters than a-z, 0-9 and dashes, or more than 60.
    """
    if not NAME.fullmatch(name):
        raise SegopsError(
            f"--name {name!r}: expected up to 60 characters of a-z, 0-9 and dashes, such as weekly."
        )


def approvals(name: str) -> str:
    """Return the name of the deployment of approvals that is served beside a schedule."""
    return f"approval-{name}"


def require_flow(server: SyncPrefectClient, name: str, flow: str) -> None:
    """Refuse a name that a schedule of the other flow has.

    Raises:
        SegopsError: One has it.
    """
    found = _named(server, name)
    if found is not None and (other := server.read_flow(found.flow_id).name) != flow:
        raise SegopsError(
            f"--name {name}: the server has a schedule of the flow {other} of that name. Choose "
            f"another name, or remove that one: `segops schedule remove {name}`."
        )


def claim(
    server: SyncPrefectClient, name: str, owner: Owner, replace: bool
) -> tuple[UUID, Owner | None]:
    """Take a schedule for a process.

    Args:
        server: The Prefect server.
        name: The schedule.
        owner: The process.
        replace: Take it from the present owner.

    Returns:
        The id of the claim, and the process that served the schedule until now and ends by itself.

    Raises:
        SegopsError: Another process, another checkout or a work pool has it.
    """
    from prefect.client.schemas.actions import VariableCreate
    from prefect.exceptions import ObjectAlreadyExists

    found = _named(server, name)
    if found is not None and found.work_pool_name is not None:
        raise SegopsError(
            f"Schedule {name}: work pool {found.work_pool_name} runs it. Choose another --name, or "
            f"end it with `segops schedule remove {name}`."
        )
    beside = _approval(server, name)
    if beside is not None and beside.work_pool_name is not None:
        raise SegopsError(
            f"Schedule {name}: work pool {beside.work_pool_name} runs the deployment "
            f"approve/{beside.name}, which this schedule would replace. Choose another --name."
        )
    ending: Owner | None = None
    while True:
        with suppress(ObjectAlreadyExists):
            value: dict[str, Any] = vars(owner)
            made = server.create_variable(VariableCreate(name=_variable(name), value=value))
            return made.id, ending
        held = server.read_variable_by_name(_variable(name))
        if held is None:  # given back a moment ago
            continue
        present = _owner(held)
        is_served = _is_served(server, name, held)
        if not replace and (is_served or present is None or present.checkout != owner.checkout):
            words = f"by {present.words}" if present is not None else f"({held.value})"
            ended, end = "; that process has ended", "remove it"
            if is_served:
                ended, end = "", "end it there or"
            raise SegopsError(
                f"Schedule {name} of {server.api_url} is taken {words}{ended}. Choose "
                f"another --name, {end} with `segops schedule remove {name}`, or take it "
                "over with --replace."
            )
        # By its id: of two that find an ended process, one deletes its claim.
        if _delete(server, held.id) and is_served:
            ending = present


def holds(server: SyncPrefectClient, name: str, claimed: UUID) -> bool:
    """Whether a claim still stands."""
    held = server.read_variable_by_name(_variable(name))
    return held is not None and held.id == claimed


def release(server: SyncPrefectClient, claimed: UUID) -> None:
    """Give a claim back, if it still stands."""
    _delete(server, claimed)


def await_end(server: SyncPrefectClient, name: str, owner: Owner) -> None:
    """Wait until a process no longer serves a schedule that was taken from it.

    Raises:
        SegopsError: It does not end.
    """
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        if not (
            is_running(owner)
            if owner.host == socket.gethostname()
            else _polled(server, name, ASKING)
        ):
            return
        time.sleep(0.2)
    raise SegopsError(
        f"Schedule {name}: {owner.words}, has not ended within {END_SECONDS:.0f} s. Stop it there, "
        "then repeat the command."
    )


def listed(server: SyncPrefectClient) -> list[Schedule]:
    """Return all schedules of a server, by name."""
    return sorted(
        (_schedule(server, deployment) for deployment in _deployments(server)),
        key=lambda schedule: schedule.name,
    )


def pause(server: SyncPrefectClient, name: str) -> None:
    """Pause a schedule; a run in progress goes on.

    Raises:
        SegopsError: There is no schedule of that name.
    """
    server.pause_deployment(_required(server, name).id)


def is_paused(server: SyncPrefectClient, name: str, description: str) -> bool:
    """Whether a schedule that was deployed with a description is paused; another one counts not."""
    found = _named(server, name)
    return found is not None and found.description == description and bool(found.paused)


def resume(server: SyncPrefectClient, name: str) -> None:
    """Resume a paused schedule.

    Raises:
        SegopsError: There is no schedule of that name, or no process serves it.
    """
    found = _required(server, name)
    schedule = _schedule(server, found)
    if not schedule.is_served:
        raise SegopsError(
            f"Schedule {name}: no process serves it, so its runs would only pile up. Start it in "
            f"its checkout: `segops schedule --name {name} --cron ...`."
        )
    server.resume_deployment(found.id)


def remove(server: SyncPrefectClient, name: str) -> None:
    """Remove a schedule; the process that serves it ends, with a run in progress.

    Raises:
        SegopsError: There is no schedule of that name.
    """
    from prefect.exceptions import ObjectNotFound

    found = _named(server, name)
    held = server.read_variable_by_name(_variable(name)) if NAME.fullmatch(name) else None
    if found is None and held is None:
        _required(server, name)
    if found is not None:
        server.delete_deployment(found.id)
    if held is not None:
        _delete(server, held.id)
    beside = _approval(server, name)
    if beside is not None and beside.work_pool_name is None:
        with suppress(ObjectNotFound):
            server.delete_deployment(beside.id)


def _variable(name: str) -> str:
    return PREFIX + name


def _owner(held: Variable) -> Owner | None:
    """Return the owner that a variable names; None where others have changed it."""
    try:
        return Owner(**held.value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _delete(server: SyncPrefectClient, variable: UUID) -> bool:
    """Delete a variable; return whether it was there."""
    import httpx

    try:
        server.request("DELETE", "/variables/{id}", path_params={"id": variable})
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return False
    return True


def _is_served(server: SyncPrefectClient, name: str, held: Variable | None) -> bool:
    """Whether the process that holds a schedule runs."""
    owner = None if held is None else _owner(held)
    if held is None or owner is None:
        return False
    if owner.host == socket.gethostname():
        return is_running(owner)
    if held.created is not None and datetime.now(UTC) - held.created < STARTED:
        return True
    return _polled(server, name, POLLED)


def _polled(server: SyncPrefectClient, name: str, within: timedelta) -> bool:
    """Whether a process asked for a schedule's runs within a time from now."""
    found = _named(server, name)
    return (
        found is not None
        and found.last_polled is not None
        and datetime.now(UTC) - found.last_polled < within
    )


def _deployments(server: SyncPrefectClient) -> list[DeploymentResponse]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return server.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))))


def _named(server: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    return next((one for one in _deployments(server) if one.name == name), None)


def _approval(server: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """Return the deployment of approvals that is, or would be, served beside a schedule."""
    from prefect.exceptions import ObjectNotFound

    try:
        return server.read_deployment_by_name(f"approve/{approvals(name)}")
    except ObjectNotFound:
        return None


def _required(server: SyncPrefectClient, name: str) -> DeploymentResponse:
    found = _named(server, name)
    if found is None:
        known = ", ".join(sorted(one.name for one in _deployments(server))) or "none"
        raise SegopsError(f"{name}: the server has no such schedule; it has {known}.")
    return found


def _schedule(server: SyncPrefectClient, deployment: DeploymentResponse) -> Schedule:
    name = deployment.name
    held = server.read_variable_by_name(_variable(name)) if NAME.fullmatch(name) else None
    pool = deployment.work_pool_name
    return Schedule(
        name=name,
        flow=server.read_flow(deployment.flow_id).name,
        when=", ".join(
            f"{getattr(one.schedule, 'cron', one.schedule)} "
            f"{getattr(one.schedule, 'timezone', None) or 'UTC'}"
            for one in deployment.schedules
        ),
        is_paused=bool(deployment.paused),
        owner=None if held is None else _owner(held),
        is_served=pool is not None or _is_served(server, name, held),
        pool=pool,
        waiting=len(waiting(server, deployment.id)),
    )
