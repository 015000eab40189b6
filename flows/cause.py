"""Says what started a run of a deployment: its schedule, an automation, or a person."""

from __future__ import annotations

import os

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.runtime import deployment

VARIABLE = "SEGOPS_STARTED_BY"
"""What the environment names here counts more; lineage and ledger take it over."""


def declare() -> None:
    """Write what started this flow run into the environment, if its deployment did.

    A person who starts a run in this process is known as the user of the operating system.
    """
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        words = started_by(context.flow_run, str(deployment.name))
        if words is not None:
            os.environ.setdefault(VARIABLE, words)


def started_by(run: FlowRun, name: str) -> str | None:
    """Return what started a flow run; None if it is no run of a deployment.

    Args:
        run: The flow run.
        name: Its deployment's name.
    """
    if run.deployment_id is None:
        return None
    if run.auto_scheduled:
        what = f"schedule {name}"
    elif run.created_by is not None and run.created_by.type == "AUTOMATION":
        what = f"automation {run.created_by.display_value} by {name}"
    else:
        what = f"request for {name}"
    return f"{what}, prefect flow run {run.id}"
