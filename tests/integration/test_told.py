"""The end of a flow run is told: to channels, and as an event on a real Prefect server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.logging import disable_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Completed, Failed
from prefect.types._datetime import now

from flows import retrain as retrain_module
from flows.failures import told_by_caller
from flows.server import deliver
from flows.telling import tell
from segops import pipeline
from segops.operate import notify, schedules, silence
from segops.release.check import at_least
from segops.release.gate import Decision
from segops.runtime.errors import TransientError
from tests.integration.conftest import ROOT
from tests.support.channels import Webhook, webhook
from tests.support.prefect_server import Serving, serving

pytestmark = pytest.mark.slow
LONG = """

def chosen(*_: object) -> Any:
    import time

    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook that is told of everything, and a workspace whose parameters are not usable."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    sections = {"notify": {"by_hand": True}, "train": {"epoch": 3}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.chdir(tmp_path)
    with webhook() as running:
        monkeypatch.setenv(notify.ADDRESSES, running.address)
        yield running


def event(server: Serving, name: str) -> dict[str, Any]:
    """The event of a name, as soon as the server has it."""
    deliver()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = server.post("events/filter", {"filter": {"event": {"name": [name]}}})
        if found := answer.raise_for_status().json()["events"]:
            event: dict[str, Any] = found[0]
            return event
        time.sleep(0.3)
    raise AssertionError(f"no event {name}")


def test_a_failure_is_told_with_its_cause(
    server: Serving, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    with told_by_caller():
        state: Any = retrain_module.retrain(return_state=True)
    assert state.is_failed()
    (got,) = hook.got
    assert got["title"].startswith("Run ")
    assert got["title"].endswith(" of the flow retrain failed")
    assert "train.epoch: no such parameter" in got["message"]
    assert "/runs/flow-run/" in got["message"]
    happened = event(server, "segops.failed")
    assert "train.epoch: no such parameter" in happened["payload"]["cause"]
    related = {one["prefect.resource.id"] for one in happened["related"]}
    assert f"prefect.flow-run.{state.state_details.flow_run_id}" in related
    logs = [one["message"] for one in server.read("logs")]
    assert not [one for one in logs if "hook" in one]
    assert "Channel 1 (json) was told: " in " ".join(logs)
    assert "T0KEN" not in str(server.read("logs"))
    assert "Beginning flow run" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_lost_connection_is_tried_again_and_its_cause_is_the_state(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    @retrain_module.step(task_run_name="record", retries=1, retry_delay_seconds=0)
    def record(succeeds: bool) -> Any:
        def lose() -> str:
            calls.append(1)
            if succeeds and len(calls) == 2:
                return "recorded"
            raise TransientError("MLflow does not answer.")

        return retrain_module.guarded(lose)

    assert record(True) == "recorded"
    state = record(False, return_state=True)
    assert (len(calls), state.name, state.message) == (4, "Failed", "MLflow does not answer.")
    assert "Retries are exhausted" in caplog.text
    assert "Traceback" not in caplog.text
    assert "NoneType: None" not in caplog.text


def test_a_rejection_is_an_event_of_the_version(server: Serving, hook: Webhook) -> None:
    low = at_least("mIoU", "mIoU", 0.3, 0.5)
    decision = Decision(verdict="rejected", checks=(low,), model="tiles", version="7")
    evaluation = {"miou": 0.3, "miou_low": None, "miou_high": None, "images": 1, "split": "val"}
    summary = retrain_module.Summary({}, "tiles", "7", True, decision, evaluation, "sqlite:///x")
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="quick-fox", deployment_id=uuid4())
    state = Completed(name="Rejected", data=summary)
    state.data = type("Record", (), {"result": summary})()
    tell(retrain_module.retrain, run, state)
    happened = event(server, "segops.rejected")
    assert happened["resource"]["prefect.resource.id"] == "segops.model-version.tiles.7"
    assert happened["payload"]["miou"] == 0.3
    assert hook.got[0]["title"] == "tiles version 7 is rejected"
    unchanged = Completed(name="Unchanged", data=None)
    unchanged.data = state.data
    tell(retrain_module.retrain, run, unchanged)
    assert len(hook.got) == 1


def test_a_silent_schedule_is_found(server: Serving) -> None:
    with schedules.client() as asked:
        assert silence.silent(asked, 24) == ["The Prefect server has no schedule."]
        flow = asked.create_flow(retrain_module.retrain)
        made = asked.create_deployment(flow_id=flow, name="weekly")
        assert silence.silent(asked, 24) == []
        in_a_day = datetime.now(UTC) + timedelta(hours=25)
        (sentence,) = silence.silent(asked, 24, in_a_day)
        assert sentence.startswith("Schedule weekly: none is known to have ended since it was made")
        run = asked.create_flow_run_from_deployment(made)
        failed: Any = Failed(message="x", timestamp=now("UTC"))
        asked.set_flow_run_state(run.id, failed, force=True)
        assert silence.silent(asked, 24) == []
        (sentence,) = silence.silent(asked, 24, in_a_day)
        assert sentence.startswith("Schedule weekly: the last ended at 20")
    assert silence.message([sentence], 24).body == sentence


def test_a_timer_tells_of_silent_schedules(server: Serving, hook: Webhook, tmp_path: Path) -> None:
    with schedules.client() as asked:
        flow = asked.create_flow(retrain_module.retrain)
        made = asked.create_deployment(flow_id=flow, name="nightly")
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    told = {**pipeline.environment(), "SEGOPS_NOTIFY": hook.address}

    def run(hours: float, **environment: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"notify": {"silent_hours": hours}}))
        return subprocess.run(
            ["segops", "notify", "silent"], cwd=tmp_path, env={**told, **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run(500, **server.settings())
    assert (done.returncode, hook.got) == (0, []), done.stderr
    done = run(1e-6, **server.settings())
    assert done.returncode == 3, done.stderr
    (got,) = hook.got
    assert re.fullmatch(r"segops: \d schedules? without an ended run for 1e-06 hours", got["title"])
    own = next(one for one in got["message"].splitlines() if one.startswith("Schedule nightly: "))
    assert "none is known to have ended since it was made at 20" in own
    assert f"Page: {server.address}" in own
    assert own.endswith(str(made))
    assert "Schedule nightly: none is known" in done.stdout
    done = run(24, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 3, done.stderr
    got = hook.got[-1]
    assert (
        got["title"]
        == "segops: whether scheduled runs end is not known: the server cannot be asked"
    )
    assert got["message"].startswith("http://127.0.0.1:9/api: no Prefect server answers (")
    assert "Traceback" not in done.stderr


def until(condition: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def start(server: Serving, deployment: str, parameters: dict[str, Any]) -> str:
    """Start a run of a deployment; returns its id."""
    path = f"deployments/{server.get(f'deployments/name/{deployment}')['id']}/create_flow_run"
    made: dict[str, str] = server.post(path, {"parameters": parameters}).raise_for_status().json()
    return made["id"]


def state_of(server: Serving, run: str) -> dict[str, Any]:
    state: dict[str, Any] = server.get(f"flow_runs/{run}")["state"]
    return state


def test_a_failed_and_a_killed_run_of_a_schedule_are_told_without_a_traceback(
    server: Serving, hook: Webhook, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "flows", tmp_path / "flows")
    with (tmp_path / "flows/retrain.py").open("a") as file:
        file.write(LONG)
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(
            ["segops", "--log-format", "json", "schedule", "--cron", "0 3 1 1 *"],
            cwd=tmp_path,
            env={
                **pipeline.environment(),
                **server.settings(),
                "PREFECT_RUNNER_POLL_FREQUENCY": "1",
                "SEGOPS_NOTIFY": hook.address,
            },
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "is being served" in said.read_text(), said.read_text)
        wanted = {"version": "7", "reason": "looked at it"}
        made = start(server, "approve/approval-scheduled", wanted)
        until(lambda: hook.got, said.read_text)
        state = state_of(server, made)
        killed = start(server, "retrain/scheduled", {})
        until(lambda: state_of(server, killed)["type"] == "RUNNING", said.read_text)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        until(lambda: len(hook.got) > 1, said.read_text)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    assert "train.epoch: no such parameter" in state["message"]
    failed, crashed = hook.got
    assert state["message"] in failed["message"]
    assert crashed["title"].endswith("of the flow retrain failed")
    assert "-9" in crashed["message"]
    text = said.read_text()
    assert "Traceback" not in text
    lines = [json.loads(one) for one in text.splitlines()]
    ended = [one for one in lines if "Finished in state Failed" in one["message"]]
    assert [one["level"] for one in ended if one["logger"] == "prefect.flow_runs"] == ["ERROR"]


def test_a_verdict_stands_where_the_page_of_the_run_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for page in ("verdict_page", "class_page"):
        monkeypatch.setattr(retrain_module, page, lambda _: "table")
    changed = {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    summary: Any = None
    with temporary_settings(changed), disable_run_logger():
        retrain_module._show(summary)
