"""HEAD, parameters, data, clock, time zone or the checkout's place change while a stage runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from segops import files, paths, pipeline
from tests.faults.test_stage_killed import STARTER
from tests.integration.conftest import committed, git, reproduced, segops, set_params, shared
from tests.support import registry_workspace as made

__all__ = ["committed", "reproduced", "shared"]


@pytest.fixture
def workspace(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    root = shutil.copytree(reproduced, tmp_path / "workspace", symlinks=True, ignore=record)
    set_params(root, train={"epochs": 40, "batch_size": 2})
    git(root, "commit", "-qam", "a longer training")
    return root


@contextmanager
def training(root: Path, is_live: bool = False) -> Iterator[list[Any]]:
    """Train; the block runs in the middle of it. Yields a list that receives status and words.

    `is_live`: MLflow is told while it trains, and of its start before the block begins.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, "train"],
        cwd=root,
        env=pipeline.environment() | ({} if is_live else {"SEGOPS_LIVE": "0"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ended: list[Any] = []
    end = time.monotonic() + 200
    while not (root / paths.RESUME / "state.pt").exists() or (is_live and not is_recorded(root)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.2 if is_live else 0.02)
    yield ended
    said = process.communicate()[0]
    ended += [process.returncode, said]
    assert "Traceback" not in said


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that shifts the clock of the processes that start from now on: +3h."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("Debian's package faketime is not installed")
    path = tmp_path / "clock"
    path.write_text("+0")
    for name, value in {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": path,
        "FAKETIME_CACHE_DURATION": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    return path


def is_recorded(root: Path) -> bool:
    """Whether MLflow has a run."""
    with (
        suppress(sqlite3.OperationalError),  # MLflow is still making its tables
        closing(sqlite3.connect(f"file:{root / 'mlflow.db'}?mode=ro", uri=True)) as database,
    ):
        return bool(database.execute("SELECT count(*) FROM runs").fetchone()[0])
    return False


def finish(root: Path) -> str:
    """Run the stages behind train, and record; the id of the run."""
    for stage in ("package", "export", "evaluate"):
        pipeline.run_stage(root, stage, print)
    done = segops(root, "record")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = made.snapshot(root)["runs"]
    return str(found)


@pytest.mark.long
@pytest.mark.parametrize("is_live", [True, False])
def test_another_commit_is_made(workspace: Path, is_live: bool) -> None:
    """Lineage names the commit of the training's start, whenever MLflow is told of it."""
    set_params(workspace, train={"epochs": 150})
    git(workspace, "commit", "-qam", "a training that lasts until MLflow is told")
    before = git(workspace, "rev-parse", "HEAD")
    with training(workspace, is_live) as ended:
        code = workspace / "src/segops/files.py"
        code.write_text(f"{code.read_text()}\n# another comment\n")
        git(workspace, "commit", "-qam", "another")
    assert ended[0] == 0, ended
    run = finish(workspace)
    tags = made.snapshot(workspace)["runs"][run]["tags"]
    assert tags["segops.code_commit"] == before


@pytest.mark.slow
def test_a_parameter_is_changed(workspace: Path) -> None:
    """The result of the old value is not taken for one of the new value."""
    params = (workspace / "params.yaml").read_text()
    with training(workspace) as ended:
        set_params(workspace, train={"lr": 0.0123}, gate={"margin": 0.5})
    assert ended[0] == 1, ended
    assert "changed while stage train ran: train.lr from 0.001 to 0.0123." in ended[1]
    (train,) = [one for one in pipeline.states(workspace) if one.name == "train"]
    assert train.state == "stale"
    (workspace / "params.yaml").write_text(params)
    lines: list[str] = []
    assert pipeline.run_stage(workspace, "train", lines.append) == "ran"
    assert "Continuing an interrupted training" in "".join(lines)


@pytest.mark.long
def test_a_photograph_is_changed(workspace: Path) -> None:
    trained_on = files.read_json(workspace / paths.TRAINING)["train_hash"]
    with training(workspace) as ended:
        first, second, *_ = sorted((workspace / "data/voc/JPEGImages").iterdir())
        shutil.copy(first, second.with_name("copied")).replace(second)
    assert ended[0] == 0, ended
    assert files.read_json(workspace / paths.TRAINING)["train_hash"] == trained_on
    found = {one.name: one.state for one in pipeline.states(workspace)}
    assert found["validate"] == "stale"


@pytest.mark.long
def test_the_clock_was_ahead(workspace: Path) -> None:
    """Files from the year 2040: their times decide nothing."""
    ahead = datetime(2040, 1, 1, tzinfo=UTC).timestamp()
    with training(workspace) as ended:
        for path in (*(workspace / "data").rglob("*"), *(workspace / "models").rglob("*")):
            os.utime(path, (ahead, ahead))
    assert ended[0] == 0, ended
    finish(workspace)
    assert {one.state for one in pipeline.states(workspace)} == {"up to date"}


@pytest.mark.long
@pytest.mark.parametrize("hours", [-3, 3])
def test_the_clock_jumps(
    workspace: Path, clock: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A clock that is set while MLflow is told of a training, and set right afterwards."""
    set_params(workspace, train={"epochs": 150})
    git(workspace, "commit", "-qam", "a training that lasts until MLflow is told")
    with training(workspace, is_live=True) as ended:
        clock.write_text(f"{hours:+}h")
        shown = subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True).stdout
        assert abs(int(shown) - time.time() - 3600 * hours) < 60
    assert ended[0] == 0, ended
    monkeypatch.delenv("LD_PRELOAD")
    run = made.client(workspace).get_run(finish(workspace))
    assert run.info.status == "FINISHED"
    assert run.info.start_time <= run.info.end_time <= 1000 * time.time()
    assert {one.state for one in pipeline.states(workspace)} == {"up to date"}


@pytest.mark.long
def test_the_time_zone_is_another(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.time()
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    with training(workspace) as ended:
        pass
    assert ended[0] == 0, ended
    monkeypatch.setenv("TZ", "Pacific/Pago_Pago")  # 25 hours behind
    run = made.client(workspace).get_run(finish(workspace))
    assert begun - 60 < run.info.start_time / 1000 <= run.info.end_time / 1000 <= time.time()


@pytest.mark.long
def test_the_checkout_is_moved(workspace: Path) -> None:
    elsewhere = workspace.with_name("elsewhere")
    with training(workspace) as ended:
        workspace.rename(elsewhere)
    assert not workspace.exists() or ended[0] != 0
    if workspace.exists():
        shutil.rmtree(workspace)
    assert pipeline.run_stage(elsewhere, "train", print) in ("ran", "restored", "unchanged")
    assert pipeline.is_unchanged(elsewhere, "train")
