"""Schedules on a real Prefect server: one owner each, pause, resume, remove, missed runs."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Pending, Scheduled

from segops.operate import missed as missed_runs
from segops.operate import owner, schedules
from segops.operate.owner import Owner
from segops.runtime.errors import SegopsError
from tests.integration.conftest import ROOT
from tests.support.prefect_server import Serving, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def server(running: Serving) -> Iterator[SyncPrefectClient]:
    """A client of a server without schedules."""
    with schedules.client() as client:
        yield client
        for one in client.read_deployments():
            client.delete_deployment(one.id)
        for variable in client.read_variables():
            client.delete_variable_by_name(variable.name)


@contextmanager
def another_process(checkout: str = "/srv/one") -> Iterator[Owner]:
    """A process that runs, as the owner of a schedule."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        created = owner.created(psutil.Process(process.pid))
        yield replace(Owner.this_process(checkout), pid=process.pid, created=created)
    finally:
        process.kill()
        process.wait()


def deploy(server: SyncPrefectClient, name: str) -> Any:
    """Deploy a flow named as the retraining flow, as `segops schedule` does."""
    flow = server.create_flow_from_name(schedules.RETRAIN)
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 1 1 *"))
    return server.create_deployment(flow, name, paused=False, schedules=[schedule])


def only(server: SyncPrefectClient) -> schedules.Schedule:
    (found,) = schedules.listed(server)
    return found


def test_another_process_is_refused_and_told_where_the_first_lives(
    server: SyncPrefectClient,
) -> None:
    with another_process() as first:
        schedules.claim(server, "weekly", first, replace=False)
        mine = Owner.this_process("/srv/one")
        with pytest.raises(SegopsError, match=f"process {first.pid} of .* in /srv/one, since "):
            schedules.claim(server, "weekly", mine, replace=False)
        schedules.claim(server, "nightly", mine, replace=False)


def test_an_ended_process_gives_way_to_its_own_checkout_alone(server: SyncPrefectClient) -> None:
    with another_process() as first:
        claimed, _ = schedules.claim(server, "weekly", first, replace=False)
    with pytest.raises(SegopsError, match="that process has ended"):
        schedules.claim(server, "weekly", Owner.this_process("/srv/two"), replace=False)
    again, ending = schedules.claim(server, "weekly", Owner.this_process("/srv/one"), replace=False)
    assert ending is None
    assert not schedules.holds(server, "weekly", claimed)
    assert schedules.holds(server, "weekly", again)


def test_a_process_id_that_was_used_again_is_no_owner() -> None:
    with another_process() as first:
        assert owner.is_running(first)
        assert not owner.is_running(replace(first, created=first.created - 100))
        assert not owner.is_running(replace(first, boot="an earlier start of the machine"))


def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process() as first:
        later = psutil.boot_time() + 7200
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: later)
        assert owner.is_running(first)


def test_the_approvals_of_a_work_pool_stay_as_they_are(server: SyncPrefectClient) -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert schedules.approvals(schedules.DEFAULT) not in {one["name"] for one in declared}
    server.create_work_pool(WorkPoolCreate(name="gpu", type="process"))
    flow = server.create_flow_from_name("approve")
    server.create_deployment(flow, schedules.approvals("weekly"), work_pool_name="gpu")
    mine = Owner.this_process("/srv/one")
    with pytest.raises(SegopsError, match="work pool gpu runs the deployment approve/approval-wee"):
        schedules.claim(server, "weekly", mine, replace=True)
    assert server.read_variables() == []
    server.create_deployment(flow, schedules.approvals("nightly"))
    schedules.claim(server, "nightly", mine, replace=False)
    schedules.remove(server, "nightly")
    assert [one.name for one in server.read_deployments()] == ["approval-weekly"]


def test_taking_over_names_the_process_that_ends(server: SyncPrefectClient) -> None:
    with another_process() as first:
        claimed, _ = schedules.claim(server, "weekly", first, replace=False)
        mine = Owner.this_process("/srv/two")
        _, ending = schedules.claim(server, "weekly", mine, replace=True)
        assert ending == first
        assert not schedules.holds(server, "weekly", claimed)
    schedules.await_end(server, "weekly", first)


def test_of_two_that_start_at_once_one_wins(server: SyncPrefectClient) -> None:
    with another_process() as dead:
        schedules.claim(server, "weekly", dead, replace=False)

    def start(owner: Owner) -> bool:
        try:
            with schedules.client() as client:
                schedules.claim(client, "weekly", owner, replace=False)
        except SegopsError:
            return False
        return True

    with another_process() as one, another_process() as two, ThreadPoolExecutor() as pool:
        # A thread begins without the settings that name the server.
        begun = [pool.submit(copy_context().run, start, owner) for owner in [one, two] * 3]
        assert sorted(each.result() for each in begun) == [False] * 5 + [True]


def test_a_process_of_another_machine_is_known_by_its_questions(
    server: SyncPrefectClient, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploy(server, "weekly")
    far = replace(Owner.this_process("/srv/one"), host="elsewhere", who="ada@elsewhere")
    schedules.claim(server, "weekly", far, replace=False)
    assert only(server).is_served  # it has just begun
    monkeypatch.setattr(schedules, "STARTED", timedelta(0))
    assert not only(server).is_served
    answer = running.post(
        "deployments/get_scheduled_flow_runs", {"deployment_ids": [str(deployment)]}
    )
    answer.raise_for_status()
    assert schedules._polled(server, "weekly", schedules.POLLED) or wait_for_poll(server)
    assert only(server).is_served
    mine = Owner.this_process("/srv/one")
    with pytest.raises(SegopsError, match="of ada@elsewhere in /srv/one"):
        schedules.claim(server, "weekly", mine, replace=False)


def wait_for_poll(server: SyncPrefectClient) -> bool:
    """Wait until the server has written down that it was asked, which it does afterwards."""
    deadline = schedules.time.monotonic() + 30
    while schedules.time.monotonic() < deadline:
        if schedules._polled(server, "weekly", schedules.POLLED):
            return True
        schedules.time.sleep(0.1)
    return False


def test_a_schedule_whose_process_was_killed_is_shown_paused_and_removed(
    server: SyncPrefectClient,
) -> None:
    with another_process() as first:
        schedules.claim(server, "weekly", first, replace=False)
        deploy(server, "weekly")
        assert only(server).state == f"active: {first.words}"
        schedules.pause(server, "weekly")
        assert only(server).state == f"paused: {first.words}"
        schedules.resume(server, "weekly")
    shown = only(server)
    assert (shown.when, shown.state) == (
        "0 3 1 1 * UTC",
        f"active; its process has ended: {first.words}",
    )
    schedules.pause(server, "weekly")
    with pytest.raises(SegopsError, match="no process serves it"):
        schedules.resume(server, "weekly")
    # The process had approvals beside it; who stopped before the removal has no owner left.
    server.create_deployment(server.create_flow_from_name("approve"), schedules.approvals("weekly"))
    for variable in server.read_variables():
        schedules._delete(server, variable.id)
    schedules.remove(server, "weekly")
    assert schedules.listed(server) == []
    assert server.read_variables() == []
    assert server.read_deployments() == []
    with pytest.raises(SegopsError, match="weekly: the server has no such schedule; it has none"):
        schedules.remove(server, "weekly")


@pytest.mark.parametrize(("keep", "left"), [(1, ["newest", "asked for"]), (0, ["asked for"])])
def test_of_missed_runs_the_newest_is_made(
    server: SyncPrefectClient,
    running: Serving,
    monkeypatch: pytest.MonkeyPatch,
    keep: int,
    left: list[str],
) -> None:
    monkeypatch.setattr(missed_runs, "PAGE", 2)
    deployment = deploy(server, "hourly")
    now = datetime.now(UTC)
    for hours, name in ((3, "oldest"), (2, "older"), (1, "newest")):
        missed(server, running, deployment, name, now - timedelta(hours=hours))
    asked_for(server, deployment, "asked for", now - timedelta(hours=9))
    missed(server, running, deployment, "to come", now + timedelta(days=1))
    assert only(server).waiting == 4
    assert missed_runs.skip_missed(server, deployment, keep) == 3 - keep
    kinds = {run.name: run.state.type.value for run in server.read_flow_runs() if run.state}
    names = ("oldest", "older", "newest", "asked for", "to come")
    assert {name: kinds[name] for name in names} == {
        name: "SCHEDULED" if name in {*left, "to come"} else "CANCELLED" for name in names
    }


def test_a_run_that_an_ended_process_had_taken_is_crashed(server: SyncPrefectClient) -> None:
    deployment = deploy(server, "hourly")
    pending: Any = Pending()
    run = server.create_flow_run_from_deployment(deployment, state=pending)
    missed_runs.crash_unbegun(server, deployment)
    state = server.read_flow_run(run.id).state
    assert state is not None
    assert (state.type.value, state.message) == (
        "CRASHED",
        "The process that took this run ended before it began.",
    )


@pytest.mark.parametrize("name", ["", "Weekly", "a/b", "a%b", "-a", "a" * 61, "a\n"])
def test_a_name_that_no_server_takes_is_refused(name: str) -> None:
    with pytest.raises(SegopsError, match="expected up to 60 characters"):
        schedules.require_name(name)


def asked_for(server: SyncPrefectClient, deployment: Any, name: str, when: datetime) -> Any:
    state: Any = Scheduled(scheduled_time=when)
    return server.create_flow_run_from_deployment(deployment, name=name, state=state).id


def missed(
    server: SyncPrefectClient, running: Serving, deployment: Any, name: str, when: datetime
) -> None:
    """Make a run of the schedule: only Prefect's scheduler makes such, so the database is told."""
    run = asked_for(server, deployment, name, when)
    with closing(sqlite3.connect(running.home / "prefect.db", timeout=30)) as database, database:
        changed = database.execute(
            "UPDATE flow_run SET auto_scheduled = 1 WHERE id = ?", (str(run),)
        )
        assert changed.rowcount == 1
