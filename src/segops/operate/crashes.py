"""An automation on the Prefect server that marks a run as crashed when its process has ended.

The runs that it watches carry :data:`TAG`, and their processes send a heartbeat every
:data:`HEARTBEAT_SECONDS`: a deployment has the tag and sets ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from segops.operate.automations import DESCRIPTION, put

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME = "segops: crashed runs"
TAG = "heartbeat-30s"
HEARTBEAT_SECONDS = 30
"""Prefect sends none more often."""
SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS)
"""A run that sends nothing for so long has ended."""
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def install(server: SyncPrefectClient, silence: timedelta = SILENCE) -> None:
    """Install the automation, or bring it up to date; a second call changes nothing."""
    put(server, _automation(silence))


def _automation(silence: timedelta) -> AutomationCore:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=NAME,
        description=DESCRIPTION,
        enabled=True,
        trigger=EventTrigger(
            after={heartbeat, "prefect.flow-run.Running"},  # killed before the first heartbeat
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in ENDS)},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=(
                    f"The run's process sent no heartbeat for {silence.total_seconds():.0f} s: it "
                    "has ended."
                ),
            )
        ],
    )
