"""`segops deploy` on a real Prefect server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows import deploy
from segops import pipeline
from segops.operate import crashes
from segops.runtime.errors import SegopsError
from tests.integration.conftest import ROOT
from tests.support.prefect_server import Serving, serving

SCHEDULES: list[dict[str, Any]] = [
    {"cron": "0 3 * * 1", "timezone": "UTC"},
    {"interval": 3600},
    {"rrule": "FREQ=DAILY;COUNT=3"},
]
LIMIT = {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    for name in ("prefect.yaml", "params.yaml", "flows"):
        (root / name).symlink_to(ROOT / name)
    monkeypatch.setenv("SEGOPS_WORKSPACE", str(root))
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # `segops deploy` sets them for its child process
    return root


def change(root: Path, **values: object) -> None:
    """Change the first deployment of prefect.yaml."""
    tree = yaml.safe_load((root / "prefect.yaml").read_text())
    tree["deployments"][0].update(values)
    (root / "prefect.yaml").unlink()
    (root / "prefect.yaml").write_text(yaml.safe_dump(tree))


def deployment(server: Serving, name: str) -> dict[str, Any]:
    (found,) = [one for one in server.read("deployments") if one["name"] == name]
    return found


def plainly(root: Path, server: Serving, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call Prefect's own command."""
    environment = pipeline.environment() | server.settings()
    environment.pop("SEGOPS_WORKSPACE")
    return subprocess.run(
        ["prefect", "--no-prompt", "deploy", "--name", "weekly"],
        cwd=root, env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_deployments_are_made_checked_and_refused(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "prefect") as server:
        (pool, missing, *_) = deploy.differences(checkout, "process", None)
        assert pool == "work pool gpu: the server has none of this name"
        assert missing == "retrain/weekly: the server has no such deployment"
        names = deploy.deploy(checkout, "process", None)
        assert {"retrain/weekly", "approve/approval"} <= set(names)
        assert [pool["type"] for pool in server.read("work_pools")] == ["process"]
        assert deploy.differences(checkout, "process", None) == []
        assert [one["name"] for one in server.read("automations")] == [crashes.NAME]
        for held in server.read("deployments"):
            beats = held["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
            assert (held["tags"], beats) == ([crashes.TAG], str(crashes.HEARTBEAT_SECONDS))
        for held in server.read("deployments"):
            (step,) = held["pull_steps"]
            assert step == {"segops.operate.deployed.enter": {"directory": str(checkout)}}

        # Prefect's own command is refused with a sentence where the variable is missing.
        # What a person pauses or resumes stays so, and nothing else of theirs.
        weekly, drift = (deployment(server, name) for name in ("weekly", "drift"))
        assert (weekly["paused"], drift["paused"]) == (False, True)
        (schedule,) = weekly["schedules"]
        path = f"{server.address}/api/deployments/{weekly['id']}/schedules/{schedule['id']}"
        login = httpx.BasicAuth(*server.credentials.split(":"))
        assert httpx.patch(path, json={"active": False}, auth=login).status_code == 204
        assert server.post(f"deployments/{drift['id']}/resume_deployment", {}).status_code == 200
        assert deploy.differences(checkout, "process", None) == []
        kept = (checkout / "prefect.yaml").read_text()
        change(checkout, schedules=SCHEDULES, concurrency_limit=LIMIT)
        deploy.deploy(checkout, "process", None)
        assert deploy.differences(checkout, "process", None) == []
        held = deployment(server, "weekly")["schedules"]
        assert [one["active"] for one in held] == [False] * len(SCHEDULES)
        assert not deployment(server, "drift")["paused"]
        (checkout / "prefect.yaml").write_text(kept)
        deploy.deploy(checkout, "process", None, resume=True)
        (schedule,) = deployment(server, "weekly")["schedules"]
        assert schedule["active"]
        assert deployment(server, "drift")["paused"]

        before = server.read("deployments")
        refused = plainly(checkout, server)
        assert refused.returncode == 1
        assert "SEGOPS_WORKSPACE is not set" in refused.stderr
        assert "Traceback" not in refused.stdout + refused.stderr
        assert server.read("deployments") == before

        change(checkout, parameters={"force": True}, schedules=[{"cron": "0 4 * * 1"}])
        parameters, schedules = deploy.differences(checkout, "process", None)
        assert parameters.startswith("retrain/weekly: parameters is {'force': False}")
        assert "cron 0 3 * * 1 UTC" in schedules
        assert "cron 0 4 * * 1 UTC" in schedules
        monkeypatch.setenv("SEGOPS_WORKSPACE", str(ROOT))
        assert any("pull_steps" in line for line in deploy.differences(checkout, "process", None))

        template = tmp_path / "template.json"
        job: dict[str, Any] = {"job_configuration": {"env": {"A": "1"}}, "variables": {}}
        template.write_text(json.dumps(job))
        with pytest.raises(SegopsError, match="neither of them empty"):
            deploy.deploy(checkout, "process", template)
        job["variables"] = {"type": "object", "properties": {"env": {"type": "object"}}}
        template.write_text(json.dumps(job))
        monkeypatch.setenv("SEGOPS_WORKSPACE", str(checkout))
        (line, *_) = deploy.differences(checkout, "process", template)
        assert line.startswith("work pool gpu: its job template differs from the given one in ")
        assert "job_configuration.env.A" in line
        deploy.deploy(checkout, "process", template)
        assert deploy.differences(checkout, "process", template) == []
        job["job_configuration"]["env"]["A"] = "2"
        template.write_text(json.dumps(job))
        (line,) = deploy.differences(checkout, "process", template)
        assert line.endswith("the given one in job_configuration.env.A")
        (line,) = deploy.differences(checkout, "kubernetes", None)
        assert line == "work pool gpu: the server has it with type process, not kubernetes"
        with pytest.raises(SegopsError, match="work pool gpu: the server has it with type process"):
            deploy.deploy(checkout, "kubernetes", template)


def test_deploy_names_the_variable_that_is_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with pytest.raises(SegopsError, match="PREFECT_API_URL is not set"):
            deploy.differences(checkout, "process", None)
        monkeypatch.delenv("SEGOPS_WORKSPACE")
        with pytest.raises(SegopsError, match="SEGOPS_WORKSPACE is not set"):
            deploy.differences(checkout, "process", None)


@pytest.mark.parametrize("schedule", ["0 3 * * 1", {"crn": "0 3 * * 1"}])
def test_deploy_says_where_the_file_is_no_use(checkout: Path, schedule: object) -> None:
    change(checkout, schedules=[schedule])
    with pytest.raises(SegopsError, match=r"prefect\.yaml: not usable"):
        deploy._wanted(checkout, checkout)
