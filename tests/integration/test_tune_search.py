"""`segops tune search` with real trainings, a real SQLite study and a real MLflow record."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

from segops import files, paths
from segops.augment.policy import build_policy
from segops.cli import app
from segops.cli.common import console
from segops.params.file import load_params
from segops.record import tuning as record
from segops.runtime.errors import SegopsError
from segops.tune import search as searching
from segops.tune.search import STORAGE, search
from segops.tune.study import open_study
from tests.support import registry_workspace as made

PARENT = "mlflow.parentRunId"
RANGES: dict[str, Any] = {
    "train.lr": {"low": 0.001, "high": 0.1, "log": True},
    "train.loss": {"choices": ["cross_entropy", "cross_entropy+dice"]},
}


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace prepared for training, without the val split: a search never looks at it."""
    root = made.make(tmp_path / "checkout")
    shutil.rmtree(root / paths.PACKED / "val")
    declare(root, RANGES)
    return root


def declare(root: Path, ranges: dict[str, Any], **train: Any) -> None:
    tree = {
        "augment": {"crop": [64, 64]},
        "model": {"architecture": "plain_cnn", "options": {"width": 4}},
        "train": {
            "epochs": 3, "batch_size": 2, "warmup_epochs": 0, "selection_share": 0.5, "lr": 0.01,
            "device": "cpu", **train,
        },
        "hardware": {"workers": 0, "threads": 1},
        "tune": {"trials": 3, "ranges": ranges},
    }  # fmt: skip
    (root / "params.yaml").write_text("# mine\n" + yaml.safe_dump(tree))
    files.write_json(root / paths.POLICY, build_policy(load_params(root).augment).to_json())


def recorded(root: Path) -> tuple[list[Run], list[Run]]:
    """The runs of studies, and those of trials by number."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    found = [
        run
        for one in client.search_experiments()
        for run in client.search_runs([one.experiment_id])
    ]
    trials = [run for run in found if PARENT in run.data.tags]
    trials.sort(key=lambda run: int(run.data.tags[record.TRIAL]))
    return [run for run in found if PARENT not in run.data.tags], trials


def test_a_search_finds_records_and_writes_nothing_by_itself(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = RANGES | {"train.warmup_epochs": {"choices": [0, 7]}}  # 7 of 3 epochs do not go
    declare(root, ranges)
    before = (root / "params.yaml").read_text()
    (root / paths.RESUME).mkdir(parents=True)
    (root / paths.RESUME / "state.pt").write_bytes(b"a training's")
    found = search(root, load_params(root), trials=5)
    assert [one.number for one in found.trials] == list(range(5))
    complete = [one for one in found.trials if one.outcome == "complete"]
    failed = [one for one in found.trials if one.outcome == "failed"]
    assert len(complete) >= 2
    assert failed
    assert all("warmup_epochs 7" in str(one.message) for one in failed)
    assert all(one.values["train.warmup_epochs"] == 7 for one in failed)
    assert found.best.score == max(one.score or 0 for one in complete)
    assert found.trials[0].values["train.lr"] == 0.01  # those of params.yaml come first

    assert (root / "params.yaml").read_text() == before
    assert (root / paths.RESUME / "state.pt").read_bytes() == b"a training's"
    assert not (root / searching.SCRATCH).exists()
    assert not (root / ".segops" / "history.jsonl").exists()
    assert (root / searching.PICTURE).stat().st_size > 10_000

    (parent,), children = recorded(root)
    assert parent.info.run_id == found.mlflow_run
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[record.BEST] == str(found.best.number)
    assert parent.data.params["model.architecture"] == "plain_cnn"
    assert "segops.code_commit" in parent.data.tags
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    artifacts = {one.path for one in client.list_artifacts(str(found.mlflow_run))}
    assert {"search.png", "params.diff"} <= artifacts
    assert len(children) == 5
    for run, one in zip(children, found.trials, strict=True):
        assert run.data.tags[PARENT] == found.mlflow_run
        assert run.data.params["train.lr"] == repr(one.values["train.lr"])
        assert run.data.tags[record.OUTCOME] == one.outcome
        history = client.get_metric_history(run.info.run_id, "selection_miou")
        assert [m.value for m in sorted(history, key=lambda m: m.step)] == pytest.approx(
            [row["selection_miou"] for row in one.rows]
        )
        assert run.data.metrics.get(record.SCORE) == one.score

    # Once more: nothing is trained, nothing is recorded twice.
    monkeypatch.setattr(searching, "train", None)
    again = search(root, load_params(root), trials=5)
    assert (again.trials, again.mlflow_run) == (found.trials, found.mlflow_run)
    assert len(recorded(root)[1]) == 5


def is_in_second_trial(root: Path) -> bool:
    """Whether the second trial has told of an epoch; Optuna would make what is not there yet."""
    query = (
        "select count(*) from trials join trial_user_attributes using (trial_id) "
        "where number = 1 and key = 'rows'"
    )
    try:
        with closing(sqlite3.connect(f"file:{root / STORAGE}?mode=ro", uri=True)) as database:
            return bool(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # not there, not whole, or busy
        return False


def test_a_killed_search_goes_on_with_the_trials_left(root: Path) -> None:
    declare(root, RANGES, epochs=8)
    settings = load_params(root)
    process = multiprocessing.get_context("fork").Process(target=search, args=(root, settings, 3))
    process.start()
    end = time.monotonic() + 100
    while not is_in_second_trial(root) and time.monotonic() < end:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    storage = f"sqlite:///{root / STORAGE}"
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    (running,) = study.get_trials(states=(TrialState.RUNNING,))
    assert 0 < len(running.user_attrs["rows"]) < 8
    found = search(root, settings, trials=3)
    assert [one.number for one in found.trials] == [0, 2, 3]
    assert [one.outcome for one in found.trials] == ["complete"] * 3
    assert found.trials[1].values["train.lr"] == running.params["train.lr"]
    outcomes = [run.data.tags[record.OUTCOME] for run in recorded(root)[1]]
    assert outcomes == ["complete", "lost", "complete", "complete"]


def test_a_hopeless_trial_is_stopped_early(root: Path) -> None:
    settings = load_params(root)
    from segops.data.store import PackedStore

    data = PackedStore(root / paths.PACKED).split_hash("train")
    study = open_study(root / STORAGE, settings, data, 3)
    for score in (0.97, 0.98, 0.99, 0.96, 0.95):
        values = {"train.lr": 0.05, "train.loss": "cross_entropy"}
        study.inner.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                params=values,
                distributions=study.ranges,
                value=score,
                intermediate_values={1: score, 2: score, 3: score},
            )
        )
    found = search(root, settings, trials=6)
    (stopped,) = (one for one in found.trials if one.outcome == "pruned")
    assert [row["epoch"] for row in stopped.rows] == [1, 2]
    assert found.best.score == 0.99
    child = recorded(root)[1][stopped.number]
    assert (child.data.tags[record.OUTCOME], child.info.status) == ("pruned", "KILLED")


def test_no_trial_is_lost_while_mlflow_is_away(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        found = search(root, load_params(root), trials=2)
    assert found.mlflow_run is None
    assert caplog.text.count("does not answer") == 1
    later = search(root, load_params(root), trials=2)
    assert later.trials == found.trials
    assert len(recorded(root)[1]) == 2


def test_the_command_applies_the_best_values(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(console, "width", 200)
    declare(root, RANGES, lr=0.5)  # beyond the range: whatever is best differs
    shown = CliRunner().invoke(app, ["tune", "search", "--trials", "2"])
    assert shown.exit_code == 0, shown.output
    assert "-  lr: 0.5" in shown.output
    assert "--apply writes this" in shown.output
    assert load_params(root).train.lr == 0.5
    applied = CliRunner().invoke(app, ["tune", "search", "--trials", "2", "--apply"])
    assert applied.exit_code == 0, applied.output
    assert 0.001 <= load_params(root).train.lr <= 0.1
    assert (root / "params.yaml").read_text().startswith("# mine\n")


def test_what_cannot_be_searched_is_refused(root: Path) -> None:
    declare(root, {})
    with pytest.raises(SegopsError, match=r"tune\.ranges names no parameter"):
        search(root, load_params(root))
    declare(root, RANGES, selection_share=0)
    with pytest.raises(SegopsError, match="never on val"):
        search(root, load_params(root))
    declare(root, {"train.warmup_epochs": {"choices": [7, 8]}})
    with pytest.raises(
        SegopsError, match=r"(?s)No trial of the study has a score:\n.*warmup_epochs"
    ):
        search(root, load_params(root), trials=2)
    with (
        files.exclusive(root / searching.LOCK, "x"),
        pytest.raises(SegopsError, match="another search is under way"),
    ):
        search(root, load_params(root))
