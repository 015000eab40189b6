"""A Prefect server of segops removes what is older than a month, so its home has a bound."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.actions import LogCreate
from prefect.states import Completed

from segops.operate import prefect_history, schedules
from tests.support.prefect_server import serving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("once", [True, False])
def test_runs_of_more_than_a_month_ago_are_removed(
    once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS", "1")
    with serving(tmp_path, once=once) as server, schedules.client() as client:
        flow = client.create_flow_from_name("retrain")
        deployment = client.create_deployment(flow, "weekly")
        runs = {}
        for days in (20, 40):
            ended: Any = Completed()
            run = client.create_flow_run_from_deployment(deployment, state=ended)
            runs[days] = str(run.id)
            line = LogCreate(
                name="segops",
                level=20,
                message="said",
                timestamp=schedules.datetime.now(schedules.UTC),
                flow_run_id=run.id,
            )
            client.create_logs([line])
            with closing(sqlite3.connect(tmp_path / "prefect.db", timeout=30)) as base, base:
                base.execute(
                    "UPDATE flow_run SET end_time = datetime('now', ?) WHERE id = ?",
                    (f"-{days} days", runs[days]),
                )
        deadline = time.monotonic() + 60
        while [one["id"] for one in server.read("flow_runs")] != [runs[20]]:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        while [one["flow_run_id"] for one in server.read("logs")] != [runs[20]]:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        said = prefect_history.note()
        assert said is not None
        assert "stays, 1 flow run (0 of them ended over 30 days ago) in " in said
