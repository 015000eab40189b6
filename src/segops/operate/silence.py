"""Finds schedules whose runs no longer come to an end, whatever the reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from segops.operate.messages import Message
from segops.operate.schedules import listed
from segops.words import counted

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NONE = "The Prefect server has no schedule."


def silent(server: SyncPrefectClient, hours: float, now: datetime | None = None) -> list[str]:
    """Return a line for each schedule of which no run has ended for a time, with its page.

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
    from prefect.utilities.urls import url_for

    ended = FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED])
    now = now or datetime.now(UTC)
    schedules = listed(server)
    if not schedules:
        return [NONE]
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
            page = url_for("deployment", deployment.id)
            said = f"Schedule {one.name}: {what} at {when}. It is {one.state}."
            sentences.append(f"{said} Page: {page}" if page else said)
    return sentences


def message(sentences: list[str], hours: float) -> Message:
    """Return the message that schedules are silent, from what :func:`silent` found."""
    if sentences == [NONE]:
        return _message("segops: the Prefect server has no schedule", sentences, hours)
    what = counted(len(sentences), "schedule")
    return _message(f"segops: {what} without an ended run for {hours:g} hours", sentences, hours)


def unknown(cause: str, hours: float) -> Message:
    """Return the message that schedules may be silent: the server cannot be asked."""
    return _message(
        "segops: whether scheduled runs end is not known: the server cannot be asked",
        [cause],
        hours,
    )


def _message(subject: str, lines: list[str], hours: float) -> Message:
    return Message("silent", subject, tuple(lines), "segops.schedules", {"hours": hours})
