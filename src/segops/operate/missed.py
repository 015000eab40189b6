"""Runs of a schedule that did not begin: those that were missed, and those that were taken."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, StateType

PAGE = 200
"""Runs that a server gives at once."""


def skip_missed(server: SyncPrefectClient, deployment: UUID, keep: int = 1) -> int:
    """Cancel the runs whose scheduled time has passed, save the newest `keep`; return how many.

    Runs that a person or a trigger asked for stay.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled

    missed = [run for run in waiting(server, deployment) if run.auto_scheduled]
    for run in missed[keep:]:
        state: Any = Cancelled(message="Its time has passed; a newer run is made.")
        with suppress(ObjectNotFound):  # a pause deletes runs that wait
            server.set_flow_run_state(run.id, state)
    return len(missed[keep:])


def crash_unbegun(server: SyncPrefectClient, deployment: UUID) -> None:
    """Mark runs as crashed that an ended process took and did not begin."""
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    for run in _runs(server, deployment, StateType.PENDING):
        state: Any = Crashed(message="The process that took this run ended before it began.")
        server.set_flow_run_state(run.id, state)


def waiting(server: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Return a deployment's runs whose time has come, the latest first."""
    from prefect.client.schemas.filters import FlowRunFilterExpectedStartTime
    from prefect.client.schemas.objects import StateType

    due = FlowRunFilterExpectedStartTime(before_=datetime.now(UTC))
    return _runs(server, deployment, StateType.SCHEDULED, expected_start_time=due)


def _runs(
    server: SyncPrefectClient, deployment: UUID, kind: StateType, **more: Any
) -> list[FlowRun]:
    """Return a deployment's runs in a kind of state, the latest first."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    found: list[FlowRun] = []
    while True:
        page = server.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[kind])),
                **more,
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found
