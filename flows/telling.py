"""Tells of the end of a flow run: an event on the Prefect server, and messages to people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

from segops import paths
from segops.operate import messages, notify
from segops.operate.messages import Message
from segops.runtime.errors import SegopsError


def tell(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell of the final state of a flow run; Prefect calls this after the state is set."""
    root = _workspace()
    message = _message(root, flow, flow_run, state)
    if message is None:
        return
    emit_event(
        f"segops.{message.event}",
        resource={
            "prefect.resource.id": message.resource,
            "prefect.resource.name": message.subject,
        },
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": flow_run.name,
            }
        ],
        payload={"cause": message.body, **message.figures},
    )
    by_hand = flow_run.deployment_id is None
    notify.tell(root, message, by_hand=by_hand, say=flow_run_logger(flow_run, flow))


def _message(root: Path, flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> Message | None:
    page = url_for(run)
    run_page = [f"Run: {page}"] if page else []
    what = f"Run {run.name} of the flow {flow.name}"
    if state.name == "Withdrawn" and not state.is_completed():
        lines = (state.message or "", *run_page)
        return Message("withdrawn", f"{what} took the champion back", lines)
    if not state.is_completed():
        return messages.failed(what, state.message or state.name or "", run_page)
    result = getattr(state.data, "result", None)
    if state.name == "Drift" and result is not None:
        return messages.drifted(result, run_page)
    decision = getattr(result, "decision", None)
    if decision is None or state.name == "Unchanged":
        return None
    approver = getattr(result, "by", None)
    by = [f"Approved by {approver}."] if approver else []
    links = [*by, *run_page, *messages.version_page(root, decision.model, decision.version)]
    return messages.decided(
        decision,
        evaluation=getattr(result, "evaluation", None),
        smoke=getattr(result, "smoke", None),
        links=links,
    )


def _workspace() -> Path:
    """Return the workspace; a worker that tells of a killed run may be started elsewhere."""
    try:
        return paths.workspace()
    except SegopsError:
        return Path(os.environ.get("SEGOPS_WORKSPACE", "."))
