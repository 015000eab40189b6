"""The retraining flow on a real Prefect server, a real DVC and a real SQLite MLflow."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ParameterBindError
from prefect.states import Failed

from flows import retrain as retrain_module
from flows.serve import serve
from segops import files, paths, pipeline
from segops.cli.summary import show_summary
from segops.evaluate import kept_champion
from segops.release.status import status
from segops.runtime.errors import SegopsError, TransientError
from tests.integration.conftest import git, segops, set_params
from tests.support.prefect_server import Serving, serving
from tests.support.registry_workspace import client, lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture(scope="module")
def first(
    server: Serving, committed: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, retrain_module.Summary]:
    """A workspace in which the flow has run once."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = tmp_path_factory.mktemp("flow") / "workspace"
    shutil.copytree(committed, root, symlinks=True)
    return root, retrain_module.run(root)


def retrain(root: Path, **parameters: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return retrain_module.retrain(return_state=True, **parameters)


def artifacts(key: str) -> list[Any]:
    async def read() -> list[Any]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            )
            return sorted(found, key=lambda one: one.created)

    return asyncio.run(read())


def test_first_run_ends_with_a_champion(first: tuple[Path, retrain_module.Summary]) -> None:
    root, summary = first
    assert set(summary.outcomes.values()) == {"ran"}
    assert summary.created
    assert summary.decision.verdict == "promoted", summary.decision
    assert {one.alias: str(one.version) for one in status(root).versions} == {"champion": "1"}
    assert [line["kind"] for line in lines(root)] == ["decision", "intent", "done", "smoke"]
    assert summary.smoke is not None
    assert "on the machine that scored it: 0 of" in summary.smoke.sentence
    champion = kept_champion.read(root)
    assert champion is not None
    assert champion.version == "1"  # what the next evaluation page compares with
    assert champion.evaluation == summary.evaluation


def test_verdict_and_metrics_stand_on_the_flow_page(
    first: tuple[Path, retrain_module.Summary],
) -> None:
    _, summary = first
    verdict = artifacts("verdict")
    assert "promoted" in verdict[-1].data
    assert f"{summary.evaluation['miou']:.3f}" in verdict[-1].data
    assert "background" in str(artifacts("class-iou")[-1].data)


def test_second_run_changes_nothing_and_says_so(
    first: tuple[Path, retrain_module.Summary],
) -> None:
    root, _ = first
    decisions = lines(root)
    state = retrain(root)
    summary = state.result()
    assert state.name == "Unchanged"
    assert "Nothing changed" in state.message
    assert set(summary.outcomes.values()) == {"unchanged"}
    assert not summary.created
    assert summary.version == "1"
    assert lines(root) == decisions


def test_second_run_is_refused_while_one_is_under_way(
    first: tuple[Path, retrain_module.Summary],
) -> None:
    root, _ = first
    with files.exclusive(root / paths.RUN_LOCK, "a run"):
        state = retrain(root, wait=False)
    assert state.is_failed()
    assert re.search(r"another run \(process .*\) is under way in this workspace", state.message)


def test_a_run_in_a_worktree_keeps_its_result_in_git(
    first: tuple[Path, retrain_module.Summary],
) -> None:
    """Training and package come out of the cache; the evaluation has another parameter."""
    root, _ = first
    before = git(root, "status", "--porcelain")
    overrides = {"evaluate.bootstrap_samples": 100}
    summary = retrain(root, isolated=True, overrides=overrides).result()
    assert {name for name, how in summary.outcomes.items() if how == "ran"} == {"code", "evaluate"}
    assert (summary.created, summary.version) == (False, "1")
    assert git(root, "status", "--porcelain") == before
    assert "bootstrap_samples: 100" in git(root, "show", f"runs/{summary.run}:params.yaml")
    assert git(root, "rev-parse", f"runs/{summary.run}^") == git(root, "rev-parse", "HEAD")
    (version,) = client(root).search_model_versions("name = 'segops'")
    released = git(root, "rev-parse", "model/segops/v1")
    assert version.tags["segops.result_commit"] == released
    assert git(root, "show", f"{released}:dvc.lock") == (root / "dvc.lock").read_text().strip()
    assert not git(root, "branch", "--contains", released)


@pytest.mark.long
def test_a_run_with_one_image_of_val_ends_well(
    server: None, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = workspace / "data" / "voc" / "ImageSets" / "Segmentation" / "val.txt"
    first, *others = listed.read_text().split()
    listed.write_text(f"{first}\n")
    for one in others:
        for path in (workspace / "data" / "voc").rglob(f"{one}.*"):
            path.unlink()
    summary = retrain_module.run(workspace)
    assert summary.evaluation["miou_low"] is None
    assert summary.decision.verdict == "promoted"
    show_summary(workspace, summary)
    without = "on 1 image of val (no interval: it takes two images or more)"
    assert without in " ".join(capsys.readouterr().out.split())
    assert without in artifacts("verdict")[-1].data


@pytest.mark.slow
def test_a_users_mistake_fails_the_run_at_once(
    server: Serving, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_params(workspace, model={"options": {"no_such_option": 1}})
    state = retrain(workspace)
    assert state.is_failed()
    cause = "train: model.options: plain_cnn with encoder resnet18 has no option no_such_option"
    assert state.message.startswith(cause)
    with pytest.raises(SegopsError, match=cause):
        state.result()
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert [one.startswith(f"Finished in state Failed('{cause}") for one in errors] == [True, True]
    assert "Retry" not in caplog.text
    assert not (workspace / paths.SEGMENTER).exists()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TransientError("connection lost"), True),
        (pipeline.DvcBusyError("lock"), True),
        (SegopsError("bad parameter"), False),
        (ValueError("bug"), False),
    ],
)
def test_only_lost_connections_and_busy_locks_are_tried_again(
    error: Exception, again: bool
) -> None:
    assert retrain_module.is_transient(None, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_a_bad_cron_expression_is_named() -> None:
    with pytest.raises(SegopsError, match="every monday"):
        serve(Path(), "every monday", "UTC")


@pytest.fixture(scope="module")
def scheduled(
    server: Serving,
    first: tuple[Path, retrain_module.Summary],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, Path]]:
    """The deployment of a `segops schedule` that runs, and the file that it writes to."""
    said = tmp_path_factory.mktemp("schedule") / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(
            ["segops", "schedule", "--cron", "0 3 * * 1", "--timezone", "Europe/Berlin"],
            cwd=first[0],
            env={
                **pipeline.environment(),
                **server.settings(),
                "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            # Tests that a shell runs in the background ignore the signal, and so would children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while "being served" not in said.read_text() and time.monotonic() < deadline:
                time.sleep(0.2)
            yield asyncio.run(read_deployment("retrain/scheduled")), said
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def test_schedule_registers_an_active_deployment(scheduled: tuple[Any, Path]) -> None:
    deployment, _ = scheduled
    assert not deployment.paused
    assert deployment.schedules[0].active
    assert deployment.schedules[0].schedule.cron == "0 3 * * 1"
    assert deployment.schedules[0].schedule.timezone == "Europe/Berlin"


def test_a_scheduled_run_runs_in_the_schedules_workspace(
    server: Serving, scheduled: tuple[Any, Path]
) -> None:
    state = started(server, scheduled[0], {"force": False})
    assert (state["type"], state["name"]) == ("COMPLETED", "Unchanged"), state


def test_a_scheduled_run_takes_no_directory(server: Serving, scheduled: tuple[Any, Path]) -> None:
    deployment, said = scheduled
    parameters = {"force", "isolated", "revision", "overrides", "wait"}
    assert set(deployment.parameter_openapi_schema["properties"]) == parameters
    state = started(server, deployment, {"root": "/tmp"})
    assert state["type"] == "CRASHED"
    refused = r"expects parameters \['force', .* but was provided with parameters \['root'\]"
    assert re.search(refused, said.read_text())


def test_an_approval_is_served_beside_the_schedule(
    server: Serving, scheduled: tuple[Any, Path]
) -> None:
    deployment = asyncio.run(read_deployment("approve/approval-scheduled"))
    assert set(deployment.parameter_openapi_schema["properties"]) == {"version", "reason"}
    state = started(server, deployment, {"version": "7", "reason": "looked at it"})
    assert (state["type"], state["message"][:25]) == ("FAILED", "segops has no version '7'")


def started(server: Serving, deployment: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """The last state of a run of a deployment."""
    path = f"deployments/{deployment.id}/create_flow_run"
    made = server.post(path, {"parameters": parameters}).raise_for_status().json()
    return ended(server, made["id"])


def ended(server: Serving, flow_run: str) -> dict[str, Any]:
    """The last state of a flow run."""
    deadline = time.monotonic() + 280
    while time.monotonic() < deadline:
        state: dict[str, Any] = server.get(f"flow_runs/{flow_run}")["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        time.sleep(0.5)
    raise AssertionError(f"still {state}")


def test_no_directory_comes_from_outside(server: Serving) -> None:
    with pytest.raises(ParameterBindError, match="root"):
        retrain_module.retrain(root="/tmp")  # type: ignore[call-arg]


def test_run_says_so_where_the_server_takes_other_credentials(
    server: Serving, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "segops:another")
    done = segops(workspace, "run")
    assert done.returncode == 1
    assert f"{server.address}/api: the server answers with status 401." in done.stderr
    assert "Set PREFECT_API_AUTH_STRING" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_secret_is_in_no_log_tag_or_artifact(
    server: Serving, first: tuple[Path, retrain_module.Summary]
) -> None:
    root, _ = first
    secret = server.credentials.partition(":")[2].encode()
    assert any("Nothing changed" in one["message"] for one in server.read("logs"))
    assert secret.decode() not in str([server.read(one) for one in ("logs", "artifacts")])
    places = [path for path in root.rglob("*") if path.is_file()]
    assert root / "mlflow.db" in places
    assert [path for path in places if secret in path.read_bytes()] == []


async def read_deployment(name: str) -> Any:
    async with get_client() as client:
        return await client.read_deployment_by_name(name)
