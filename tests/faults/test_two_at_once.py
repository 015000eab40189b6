"""Two of everything at the same time: both end well, or one says that the other is at work."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from segops import pipeline
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "checkout")
    made.train(root, seed=1)
    return root


def both(root: Path, *commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """Start commands of segops at the same time; the exit status and the words of each."""
    started = [
        subprocess.Popen(
            ["segops", *command],
            cwd=root,
            env=pipeline.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    words = [process.communicate()[0] for process in started]
    ended = [(process.returncode, text) for process, text in zip(started, words, strict=True)]
    assert not any("Traceback" in text for _, text in ended), ended
    return ended


@pytest.mark.long
def test_two_records_make_one_run(root: Path) -> None:
    ended = both(root, ("record",), ("record",))
    assert [status for status, _ in ended] == [0, 0], ended
    assert len(made.snapshot(root)["runs"]) == 1


@pytest.mark.slow
def test_two_promotions_make_one_version(root: Path) -> None:
    ended = both(root, ("promote",), ("promote",))
    assert 0 in [status for status, _ in ended], ended
    assert made.aliases(root)["champion"] == "1"
    kinds = made.kinds(root)
    assert kinds.count(("done", "promote", "1")) == 1, kinds
    assert len(made.snapshot(root)["versions"]) == 1


@pytest.mark.long
def test_two_rollbacks_withdraw_one_version(root: Path) -> None:
    made.release(root, seed=1, quality=0.6)
    made.release(root, seed=2, quality=0.7)
    made.release(root, seed=3, quality=0.8)
    ended = both(root, ("rollback", "--reason", "a"), ("rollback", "--reason", "b"))
    done = [status for status, _ in ended].count(0)
    assert done >= 1, ended
    assert made.aliases(root)["champion"] == str(3 - done)


@pytest.mark.long
def test_a_promotion_and_a_rollback(root: Path) -> None:
    made.release(root, seed=1, quality=0.6)
    made.release(root, seed=2, quality=0.7)
    made.train(root, seed=3, quality=0.8)
    ended = both(root, ("promote",), ("rollback", "--reason", "b"))
    assert [status for status, _ in ended].count(1) <= 1, ended
    with made.ledger_of(root) as ledger:
        ledger.verify()
    assert made.aliases(root)["champion"] in ("1", "2", "3")


@pytest.mark.long
@pytest.mark.parametrize("stage", ["prepare", "validate"])
def test_two_of_a_stage(root: Path, stage: str) -> None:
    ended = both(root, ("stage", stage), ("stage", stage))
    assert any(status == 0 for status, _ in ended), ended
    for status, text in ended:
        assert status == 0 or "another stage" in text, text


@pytest.mark.long
def test_two_predictions_into_one_directory(root: Path, tmp_path: Path) -> None:
    command = (
        "predict",
        "data/voc/JPEGImages",
        "--model",
        "models/segmenter",
        "--output",
        str(tmp_path / "m"),
    )
    ended = both(root, command, command)
    assert any(status == 0 for status, _ in ended), ended
    photographs = list((root / "data/voc/JPEGImages").iterdir())
    assert len(list((tmp_path / "m").rglob("*.png"))) == len(photographs)
