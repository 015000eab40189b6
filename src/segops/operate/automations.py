"""Automations on the Prefect server, which segops installs and keeps up to date."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from segops.params.file import Params

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

DESCRIPTION = "Installed by segops, which `segops schedule` brings up to date."
DRIFT = "segops.drift"
"""The event that :mod:`flows.telling` emits where :mod:`flows.monitor` finds a drift."""
log = logging.getLogger("segops")


def put(server: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Install an automation, or bring the one of its name up to date."""
    present = server.read_automations_by_name(wanted.name)
    for extra in present[1:]:  # two processes installed it at the same moment
        server.delete_automation(extra.id)
    if not present:
        server.create_automation(wanted)
    elif _content(present[0]) != _content(wanted):
        server.update_automation(present[0].id, wanted)


def _content(automation: AutomationCore) -> object:
    fields = set(type(automation).model_fields) - {"id"}
    return automation.model_dump(mode="json", include=fields, exclude={"owner_resource", "tags"})


def model_resource(model: str) -> str:
    """Return how the events name a registered model."""
    return f"segops.model.{model}"


def put_drift(server: SyncPrefectClient, settings: Params) -> None:
    """Let a drift start the schedule that `monitor.retrain` names; without one, let it start none.

    Args:
        server: The Prefect server.
        settings: The parameters of the workspace.
    """
    from prefect.exceptions import ObjectNotFound

    name = f"segops: retrain {settings.registry.model} on drift"
    if settings.monitor.retrain is not None:
        try:
            found = server.read_deployment_by_name(f"retrain/{settings.monitor.retrain}")
        except ObjectNotFound:
            log.warning(
                "monitor.retrain: the server has no schedule %s, so a drift starts no run. Make it "
                "(`segops schedule --name %s --cron ...`), then make the one of drift again.",
                settings.monitor.retrain, settings.monitor.retrain,
            )  # fmt: skip
        else:
            put(server, _on_drift(name, settings.registry.model, found.id))
            return
    for present in server.read_automations_by_name(name):
        server.delete_automation(present.id)


def _on_drift(name: str, model: str, deployment: UUID) -> AutomationCore:
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name=name,
        description=DESCRIPTION,
        enabled=True,
        trigger=EventTrigger(
            expect={DRIFT},
            match=ResourceSpecification({"prefect.resource.id": model_resource(model)}),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[RunDeployment(source="selected", deployment_id=deployment, parameters={})],
    )
