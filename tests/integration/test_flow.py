"""The retraining flow on a real Prefect server, a real DVC and a real SQLite MLflow."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness

from flows import retrain as retrain_module
from segops import files, paths, pipeline
from segops.cli.summary import show_summary
from segops.errors import SegopsError, TransientError
from segops.evaluate import reference
from segops.registry import ledger
from segops.registry.status import status
from tests.integration.conftest import make_workspace, set_params


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def first(
    server: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, retrain_module.Summary]:
    """A workspace in which the flow has run once."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = make_workspace(tmp_path_factory.mktemp("flow") / "workspace")
    return root, retrain_module.run(root)


def retrain(root: Path) -> Any:
    return retrain_module.retrain(root=str(root), return_state=True)


def artifacts(key: str) -> list[Any]:
    async def read() -> list[Any]:
        async with get_client() as client:
            return await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            )

    return asyncio.run(read())


def test_first_run_ends_with_a_champion(first: tuple[Path, retrain_module.Summary]) -> None:
    root, summary = first
    assert set(summary.outcomes.values()) == {"ran"}
    assert summary.created
    assert summary.decision.verdict == "promoted", summary.decision
    assert {one.alias: str(one.version) for one in status(root).versions} == {"champion": "1"}
    assert len(ledger.read(root / "ledger.jsonl")) >= 1
    champion = reference.read(root)
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
    decisions = ledger.read(root / "ledger.jsonl")
    state = retrain(root)
    summary = state.result()
    assert state.name == "Unchanged"
    assert "Nothing changed" in state.message
    assert set(summary.outcomes.values()) == {"unchanged"}
    assert not summary.created
    assert summary.version == "1"
    assert ledger.read(root / "ledger.jsonl") == decisions


def test_second_run_is_refused_while_one_is_under_way(
    first: tuple[Path, retrain_module.Summary],
) -> None:
    root, _ = first
    with files.exclusive(root / paths.RUN_LOCK, "a run"):
        state = retrain(root)
    assert state.is_failed()
    assert "another run is under way in this workspace" in state.message


@pytest.mark.slow
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
    without = "on 1 image of val (no interval: one image says nothing of the spread)"
    assert without in " ".join(capsys.readouterr().out.split())
    assert without in artifacts("verdict")[-1].data


@pytest.mark.slow
def test_a_users_mistake_fails_the_run_at_once(
    server: None, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_params(workspace, model={"options": {"no_such_option": 1}})
    state = retrain(workspace)
    assert state.is_failed()
    with pytest.raises(SegopsError, match="train"):
        state.result()
    assert "no_such_option" in caplog.text
    assert "Retry" not in caplog.text
    assert not (workspace / paths.SEGMENTER).exists()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TransientError("connection lost"), True),
        (pipeline.BusyError("lock"), True),
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
        retrain_module.serve("every monday", "UTC")


def test_schedule_registers_an_active_deployment(server: None, workspace: Path) -> None:
    url = PREFECT_API_URL.value()
    assert url is not None
    serving = subprocess.Popen(
        ["segops", "schedule", "--cron", "0 3 * * 1", "--timezone", "Europe/Berlin"],
        cwd=workspace,
        env={**pipeline.environment(), "PREFECT_API_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that a shell runs in the background ignore the signal, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert serving.stdout is not None
    try:
        for line in serving.stdout:
            if "is being served" in line:
                break
        deployment = asyncio.run(read_deployment("retrain/scheduled"))
        assert not deployment.paused
        assert deployment.schedules[0].active
        assert deployment.schedules[0].schedule.cron == "0 3 * * 1"
        assert deployment.schedules[0].schedule.timezone == "Europe/Berlin"
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)


async def read_deployment(name: str) -> Any:
    async with get_client() as client:
        return await client.read_deployment_by_name(name)
