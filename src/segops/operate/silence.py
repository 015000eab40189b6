"""Finds schedules whose runs no longer come to an end, whatever the reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from segops.operate.messages import Message
from segops.operate.schedules import listed

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def silent(server: SyncPrefectClient, hours: float, now: datetime | None = None) -> list[str]:
    """Return a sentence for each schedule of which no run has ended for a time.

    A run that completed or failed has ended; one whose process was killed has not.

    Args:
        server: The Prefect server.
        hours: The time.
        now: The present; None: this machine's.
    """
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    ended = FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED])
    now = now or datetime.now(UTC)
    schedules = listed(server)
    if not schedules:
        return ["The Prefect server has no schedule."]
    sentences = []
    for one in schedules:
        deployment = server.read_deployment_by_name(f"{one.flow}/{one.name}")
        last = server.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=ended)),
            sort=FlowRunSort.END_TIME_DESC,
            limit=1,
        )
        since = (last[0].end_time if last else None) or deployment.created
        if since is not None and (now - since).total_seconds() > 3600 * hours:
            when = f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            what = "the last ended" if last else "none is known to have ended since it was made"
            sentences.append(f"Schedule {one.name}: {what} at {when}. It is {one.state}.")
    return sentences


def message(sentences: list[str], hours: float) -> Message:
    """Return the message that schedules are silent."""
    subject = f"segops: no scheduled run has ended for {hours:g} hours"
    return Message("silent", subject, tuple(sentences), resource="segops.schedules")
