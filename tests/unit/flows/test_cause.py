"""What started a run, as lineage and ledger say it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import CreatedBy, FlowRun

from flows import cause

ID = UUID(int=7)
AUTOMATION = CreatedBy(id=ID, type="AUTOMATION", display_value="segops: drift")
SCHEDULE = CreatedBy(id=ID, type="SCHEDULE", display_value="CronSchedule")


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"auto_scheduled": True, "created_by": SCHEDULE}, "schedule weekly"),
        ({"created_by": AUTOMATION}, "automation segops: drift by weekly"),
        ({}, "request for weekly"),
    ],
)
def test_a_deployments_run_says_what_started_it(known: dict[str, Any], words: str) -> None:
    run = FlowRun(id=ID, flow_id=ID, deployment_id=ID, **known)
    assert cause.started_by(run, "weekly") == f"{words}, prefect flow run {ID}"


def test_a_run_of_this_process_is_its_users() -> None:
    assert cause.started_by(FlowRun(flow_id=ID), "None") is None
