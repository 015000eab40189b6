"""The live file: one line an epoch, never twice, whatever was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segops.train.history import TrainingLog


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_header_epochs_end(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history.jsonl"
    history = TrainingLog(path, "abc", {"train.lr": 0.1})
    history.start(0)
    history.epoch({"epoch": 1, "train_loss": 0.5, "selection_miou": None})
    history.epoch({"epoch": 2, "train_loss": 0.4, "selection_miou": 0.3})
    history.end()
    header, first, second, end = rows(path)
    assert header["fingerprint"] == "abc"
    assert header["params"] == {"train.lr": 0.1}
    assert header["started"].endswith("+00:00")
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["selection_miou"] is None
    assert set(end) == {"ended"}


def test_a_resumed_training_keeps_what_its_checkpoint_holds(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = TrainingLog(path, "abc", {})
    history.start(0)
    for epoch in (1, 2, 3):
        history.epoch({"epoch": epoch})
    started = rows(path)[0]["started"]
    with path.open("a") as file:
        file.write('{"epoch": 4, "tr')  # killed while it wrote
    resumed = TrainingLog(path, "abc", {})
    resumed.start(2)
    resumed.epoch({"epoch": 3})
    assert [row.get("epoch") for row in rows(path)] == [None, 1, 2, 3]
    assert rows(path)[0]["started"] == started


def test_another_trainings_lines_go(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    old = TrainingLog(path, "old", {})
    old.start(0)
    old.epoch({"epoch": 1})
    TrainingLog(path, "new", {}).start(1)
    assert [row.get("fingerprint") for row in rows(path)] == ["new"]
    for content in ("", "not json\n{}\n", "[]\n{}\n"):
        path.write_text(content)
        TrainingLog(path, "new", {}).start(1)
        assert [row.get("fingerprint") for row in rows(path)] == ["new"]
