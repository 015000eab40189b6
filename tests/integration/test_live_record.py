"""Live logging: a process that tails a training's history, and the record that comes after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segops import files, paths
from segops.params.file import load_params
from segops.record import runs, tracking
from segops.record.lineage import tag
from segops.record.update import record
from tests.support import registry_workspace as made


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a trained and evaluated model, nothing recorded yet."""
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


class Training:
    """A training as the follower sees it: a process, and lines in a file."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root = root
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.path = root / ".segops" / "history.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        self.start(fingerprint)

    def start(self, fingerprint: str) -> None:
        self.path.write_text(json.dumps({"fingerprint": fingerprint, "started": "now"}) + "\n")

    def write(self, *rows: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def follow(self, **environment: str) -> subprocess.Popen[str]:
        code = (
            "import sys; from pathlib import Path; from segops.record.follow import follow; "
            "sys.exit(follow(Path(sys.argv[1]), int(sys.argv[2])))"
        )
        command = [sys.executable, "-c", code, str(self.root), str(self.process.pid)]
        return subprocess.Popen(
            command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def training(root: Path) -> Any:
    fingerprint = files.read_json(root / paths.TRAINING)["fingerprint"]
    training = Training(root, fingerprint)
    yield training
    training.kill()


def wait_for(condition: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.3)
    raise AssertionError("it did not happen in time")


def live_epochs(root: Path) -> dict[int, float]:
    """Epoch -> loss, over all runs; opened as segops opens it, or the two would collide."""
    with tracking.session(root, load_params(root).registry) as store:
        found = store.client.search_runs([store.experiment_id])
        histories = [
            store.client.get_metric_history(run.info.run_id, "train_loss") for run in found
        ]
    return {one.step: one.value for history in histories for one in history}


def test_live_epochs_and_the_record_after_double_nothing(root: Path, training: Training) -> None:
    rows = made.curves(1)
    follower = training.follow()
    training.write(rows[0])
    wait_for(lambda: set(live_epochs(root)) == {1})
    (run,) = made.snapshot(root)["runs"].values()
    assert run["status"] == "RUNNING"
    assert run["params"]["train.epochs"] == str(made.EPOCHS)
    assert tag("code_commit") in run["tags"]
    training.write(rows[1])
    wait_for(lambda: set(live_epochs(root)) == {1, 2})
    training.write(rows[2])
    training.kill()
    assert follower.wait(60) == 0
    assert set(live_epochs(root)) == {1, 2, 3}
    done = record(root)
    assert not done.created
    (run,) = made.snapshot(root)["runs"].values()
    assert run["status"] == "FINISHED"
    for name in runs.EPOCH_METRICS:
        assert [(step, value) for step, value, _ in run["metrics"].get(name, [])] == [
            (row["epoch"], row[name]) for row in rows if name in row
        ]
    assert record(root).changed == []


@pytest.mark.slow
def test_a_killed_training_that_is_continued_goes_on_in_its_run(
    root: Path, training: Training
) -> None:
    rows = made.curves(1)
    training.write(rows[0], rows[1])
    first = training.follow()
    wait_for(lambda: set(live_epochs(root)) == {1, 2})
    training.kill()
    assert first.wait(60) == 0
    (run,) = made.snapshot(root)["runs"].values()
    assert run["status"] == "KILLED"
    resumed = Training(root, files.read_json(root / paths.TRAINING)["fingerprint"])
    resumed.write(*rows, {"ended": "now"})
    resumed.kill()
    assert resumed.follow().wait(60) == 0
    (run,) = made.snapshot(root)["runs"].values()
    assert [step for step, *_ in run["metrics"]["train_loss"]] == [1, 2, 3]
    assert not record(root).created


@pytest.mark.parametrize("ended", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.slow
def test_the_file_of_the_training_before_is_not_taken_for_this_one(
    root: Path, training: Training, ended: bool
) -> None:
    training.start("before")
    training.write({"epoch": 1, "train_loss": 9.0})
    if ended:
        training.write({"ended": "yesterday"})
    follower = training.follow()
    wait_for(lambda: ended or live_epochs(root) == {1: 9.0})
    time.sleep(3)
    training.start(files.read_json(root / paths.TRAINING)["fingerprint"])
    training.write(*made.curves(1))
    wait_for(lambda: set(live_epochs(root)) == {1, 2, 3})
    training.write({"ended": "now"})
    training.kill()
    assert follower.wait(60) == 0
    states = [run["status"] for run in made.snapshot(root)["runs"].values()]
    assert sorted(states) == (["FINISHED"] if ended else ["FINISHED", "KILLED"])
    assert not record(root).created


def test_a_server_that_is_away_stops_nothing_and_loses_nothing(
    root: Path, training: Training
) -> None:
    away = training.follow(
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
    )
    training.write(*made.curves(1))
    time.sleep(5)
    assert away.poll() is None
    training.kill()
    assert away.wait(60) == 1
    assert away.stderr is not None
    assert "127.0.0.1:9" in away.stderr.read()
    done = record(root)
    assert done.created
    assert set(live_epochs(root)) == {1, 2, 3}


@pytest.mark.slow
def test_a_follower_that_comes_after_the_record_adds_nothing(root: Path) -> None:
    record(root)
    before = made.snapshot(root)
    live(root, made.curves(1))
    assert made.snapshot(root) == before


def live(root: Path, rows: list[dict[str, float]]) -> None:
    """Leave a live run of a training that has ended."""
    fingerprint = files.read_json(root / paths.TRAINING)["fingerprint"]
    ended = Training(root, fingerprint)
    ended.write(*rows, {"ended": "now"})
    ended.kill()
    assert ended.follow().wait(90) == 0


def active(root: Path) -> list[str]:
    runs_ = made.snapshot(root)["runs"]
    return [run_id for run_id, run in runs_.items() if run["stage"] == "active"]


@pytest.mark.slow
@pytest.mark.long
def test_a_forced_training_with_the_same_weights_leaves_one_run(root: Path) -> None:
    done = record(root)
    forced = Training(root, files.read_json(root / paths.TRAINING)["fingerprint"])
    forced.start(files.read_json(root / paths.TRAINING)["fingerprint"])
    follower = forced.follow()
    wait_for(lambda: len(made.snapshot(root)["runs"]) == 2)
    forced.write(*made.curves(1), {"ended": "now"})
    assert record(root).changed == []
    assert len(active(root)) == 2, "a training under way keeps its live run"
    forced.kill()
    assert follower.wait(60) == 0
    again = record(root)
    assert (again.run_id, again.created, again.changed) == (done.run_id, False, [])
    assert active(root) == [done.run_id]


@pytest.mark.slow
def test_the_live_run_of_an_abandoned_training_is_not_taken_up(root: Path) -> None:
    live(root, made.curves(9))
    done = record(root)
    assert done.created
    found = made.snapshot(root)["runs"]
    assert len(found) == 2
    (other,) = (run for run_id, run in found.items() if run_id != done.run_id)
    assert other["status"] == "KILLED"
    assert record(root).changed == []
