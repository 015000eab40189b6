"""Runs whose process is gone, on a real Prefect server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.events import emit_event
from prefect.events.related import tags_as_related_resources
from prefect.states import Running

from flows import server as servers
from segops.operate import crashes, schedules
from tests.support.prefect_server import Serving, serving

pytestmark = pytest.mark.slow
SILENCE = timedelta(seconds=10)
"""The shortest that Prefect takes."""
EVALUATED_EVERY = 5
"""Seconds between two looks of Prefect's server at its automations."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as server:
        yield server


def begun(tags: list[str]) -> Any:
    """A run of a process that is gone."""
    with schedules.client() as client:
        flow = client.create_flow_from_name("retrain")
        deployment = client.create_deployment(flow, f"of-{len(tags)}", tags=tags)
        run = client.create_flow_run_from_deployment(deployment)
        state: Any = Running()
        client.set_flow_run_state(run.id, state)
    return run


def beat(run: Any) -> None:
    """Send a heartbeat as Prefect does."""
    emit_event(
        "prefect.flow-run.heartbeat",
        {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        related=tags_as_related_resources(run.tags),
    )


def test_a_silent_run_is_marked_and_one_that_others_watch_is_not(running: Serving) -> None:
    with schedules.client() as client:
        for _ in range(2):
            crashes.install(client, timedelta(seconds=77))
            crashes.install(client, SILENCE)
        first = client.read_automations_by_name(crashes.NAME)
        crashes.install(client, SILENCE)
        (installed,) = client.read_automations_by_name(crashes.NAME)
        assert first == [installed]  # nothing was changed
    silent, killed_at_once, strange = begun([crashes.TAG]), begun([crashes.TAG]), begun([])
    for run in (silent, strange):
        beat(run)
    servers.deliver()
    deadline = time.monotonic() + 120
    for which, run in {"silent": silent, "killed at once": killed_at_once}.items():
        while (state := running.get(f"flow_runs/{run.id}")["state"])["type"] == "RUNNING":
            assert time.monotonic() < deadline, which
            time.sleep(0.5)
        assert (state["type"], state["message"]) == (
            "CRASHED",
            "The run's process sent no heartbeat for 10 s: it has ended.",
        )
    assert running.get(f"flow_runs/{strange.id}")["state"]["type"] == "RUNNING"


@pytest.mark.long
def test_a_server_that_was_away_waits_for_heartbeats_first(tmp_path: Path) -> None:
    """A run that lives could send none; one that ended meanwhile is marked in the end."""
    silence = 3 * SILENCE
    with serving(tmp_path) as first:
        with schedules.client() as client:
            crashes.install(client, silence)
        lives, ended = begun([crashes.TAG]), begun([crashes.TAG])
        beat(ended)
        servers.deliver()
        until(lambda: "prefect.flow-run.heartbeat" in events(first))
        psutil.Process(first.pid).kill()
    time.sleep(silence.total_seconds() + 2)
    with serving(tmp_path) as second:
        time.sleep(EVALUATED_EVERY + 3)
        assert {one["state"]["type"] for one in second.read("flow_runs")} == {"RUNNING"}
        beat(lives)
        servers.deliver()
        until(lambda: second.get(f"flow_runs/{ended.id}")["state"]["type"] == "CRASHED")
        assert second.get(f"flow_runs/{lives.id}")["state"]["type"] == "RUNNING"


def events(server: Serving) -> list[str]:
    return [one["event"] for one in server.post("events/filter", {}).json()["events"]]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)
