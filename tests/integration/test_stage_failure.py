"""What ends a stage reaches the process that runs it, through DVC."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from segops import failure, paths, pipeline
from segops.runtime.errors import SegopsError
from tests.integration.conftest import dvc

CRASHING = """
from segops import failure
for number in range(30):
    print(f"step {number}")
print("x" * 1000, flush=True)
with failure.handed_over():
    raise RuntimeError("two shapes\\ndiffer")
"""
STAGES = {
    "validate": "segops stage validate",
    "train": f"{sys.executable} crash.py",
    "package": "echo loading; kill -9 $$",
    "prepare": "echo prepared",
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage fails, each in another way."""
    root = tmp_path_factory.mktemp("failing")
    stages = {name: {"cmd": cmd, "outs": [f"{name}.out"]} for name, cmd in STAGES.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / "params.yaml").write_text("train: {epoch: 3}\n")
    (root / "crash.py").write_text(CRASHING)
    assert dvc(root, "init", "--no-scm").returncode == 0
    return root


def run(root: Path, stage: str) -> tuple[str, list[str]]:
    """The message of the error, and the lines that came before it."""
    lines: list[str] = []
    with pytest.raises(pipeline.StageError) as caught:
        pipeline.run_stage(root, stage, lines.append)
    assert not (root / paths.FAILURE).exists()
    return str(caught.value), lines


def test_a_users_mistake_is_the_message_and_is_said_once(failing: Path) -> None:
    message, lines = run(failing, "validate")
    assert message.startswith(f"validate: {failing}/params.yaml: 1 parameter is not usable:\n")
    assert "train.epoch: no such parameter" in message
    assert lines == ["Running stage 'validate':", "> segops stage validate"]


def test_a_crash_is_told_with_the_last_lines_before_its_traceback(failing: Path) -> None:
    message, lines = run(failing, "train")
    cause, heading, *last = message.splitlines()
    assert cause == "train: RuntimeError: two shapes"
    assert heading == "differ"
    assert last[0] == "The last lines of its log:"
    assert last[1:-1] == [f"  step {number}" for number in range(21, 30)]
    assert last[-1] == f"  {'x' * 296} ..."
    assert "RuntimeError: two shapes" in lines


def test_a_killed_stage_names_the_signal(failing: Path) -> None:
    message, _ = run(failing, "package")
    assert message.startswith("package: SIGKILL ended the process. The system kills a process")
    assert message.endswith("The last lines of its log:\n  loading")


def test_what_dvc_refuses_is_dvcs_own_sentence(failing: Path) -> None:
    message, _ = run(failing, "prepare")
    assert "prepare.out" in message
    assert "ERROR" not in message


def test_an_old_cause_is_forgotten(failing: Path) -> None:
    (failing / paths.FAILURE).write_text('{"cause": "of before", "is_known": true}')
    message, _ = run(failing, "package")
    assert "of before" not in message


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"is_known": true}'])
def test_a_damaged_file_gives_no_cause(tmp_path: Path, content: str) -> None:
    place = tmp_path / "failure.json"
    place.write_text(content)
    assert failure.cause("train", place, []) is None


def test_an_error_is_raised_where_no_process_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(failure.PLACE, raising=False)
    with pytest.raises(SegopsError, match="no such key"), failure.handed_over():
        raise SegopsError("no such key")
    monkeypatch.setenv(failure.PLACE, str(tmp_path))
    with pytest.raises(SegopsError, match="no such key"), failure.handed_over():
        raise SegopsError("no such key")
