"""Log lines as JSON, of a command and of the stage that it runs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from segops import failure, logs, pipeline
from segops.progress import Progress
from tests.unit.test_progress import Terminal

CRASHING = """
import sys
from segops import cli
cli.app.command("crash")(lambda: {}["key"])
sys.argv = ["segops", *sys.argv[1:], "crash"]
cli.main()
"""


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT, "json")


def line(message: str, level: int = logging.WARNING, **extra: object) -> str:
    record = logging.LogRecord("segops", level, __file__, 1, message, (), None)
    record.__dict__.update(extra)
    return logs.JsonFormatter().format(record)


def test_a_line_tells_time_level_message_run_and_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"flow_run_name": "quick-fox", "flow_run_id": UUID(int=7), "task_run_name": "train"}
    written = line("class a|b\n\x1b[31m é \u202e", **extra)
    assert written.isascii()
    assert written.isprintable()
    told = json.loads(written)
    time = datetime.fromisoformat(told.pop("time"))
    assert time.tzinfo == UTC
    assert told == {
        "level": "WARNING", "logger": "segops", "message": "class a|b\n\x1b[31m é \u202e",
        "run": "quick-fox", "run_id": str(UUID(int=7)), "stage": "train",
    }  # fmt: skip
    monkeypatch.setitem(logs.about, "stage", "package")
    assert json.loads(line("x"))["stage"] == "package"


def test_a_childs_lines_keep_their_level(as_json: None, caplog: pytest.LogCaptureFixture) -> None:
    forward = logs.forwarding(logging.getLogger("forwarded"))
    others = [
        "Running stage 'train': 100 %s",
        '{"time": "no object',
        '{"time": "x", "level": "LOUD", "message": "m"}',
        '{"time": "x", "level": "ERROR", "message": 3}',
    ]
    with caplog.at_level(logging.DEBUG, "forwarded"):
        for one in (line("no GPU: 5 %d", logging.WARNING), *others):
            forward(one)
    told = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert told == [("WARNING", "no GPU: 5 %d"), *(("INFO", one) for one in others)]


def test_lines_stay_lines_where_nobody_asked_for_json(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(logs.FORMAT, raising=False)
    with caplog.at_level(logging.INFO, "forwarded"):
        logs.forwarding(logging.getLogger("forwarded"))(line("x"))
    assert caplog.messages[0].startswith('{"time": "')
    assert caplog.records[0].levelname == "INFO"


def test_the_last_lines_of_a_crashed_stage_are_read(as_json: None, tmp_path: Path) -> None:
    place = tmp_path / "failure.json"
    place.write_text('{"cause": "KeyError: 1", "is_known": false}')
    said = ["Running stage 'train':", "> segops stage train", line("epoch 1"), line("epoch 2")]
    told = json.dumps({**json.loads(line("KeyError: 1")), "exception": "Traceback ..."})
    message = failure.cause("train", place, [*said, told, "ERROR: failed to reproduce 'train'"])
    assert message == "train: KeyError: 1\nThe last lines of its log:\n  epoch 1\n  epoch 2"


def test_progress_is_lines_in_a_terminal_too(
    as_json: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert Progress("packing", 3).bar is None
    monkeypatch.delenv(logs.FORMAT)
    with Progress("packing", 3) as progress:
        assert progress.bar is not None


@pytest.mark.parametrize("asked", ["option", "environment"])
def test_a_commands_errors_are_json(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = ["--log-format", "json"] if asked == "option" else []
    if asked == "environment":
        monkeypatch.setenv(logs.FORMAT, "json")
    for command, level, message in (
        (["-m", "segops", *option, "status"], "ERROR", f"{tmp_path}: no dvc.yaml here or above."),
        (["-c", CRASHING, *option], "CRITICAL", "KeyError: 'key'"),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=pipeline.environment(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, "")
        told = json.loads(done.stderr)
        assert told["level"] == level
        assert told["message"].startswith(message)
        assert ("Traceback" in told.get("exception", "")) is (level == "CRITICAL")
