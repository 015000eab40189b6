"""The command line as a person meets it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def segops(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "segops", *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    result = segops("--help")
    assert result.returncode == 0
    for command in (
        "run", "data", "stage", "record", "promote", "rollback", "predict", "status", "schedule",
        "models", "recipes", "tune", "ui",
    ):  # fmt: skip
        assert f" {command} " in result.stdout
    code = (
        "import sys, segops.cli; "
        "heavy = {'torch', 'mlflow', 'prefect', 'pandas', 'dvc', 'numpy', 'optuna', 'ruamel'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr


def test_an_address_that_prefect_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://[::1/x")
    done = segops("schedule", "list")
    assert done.returncode == 1
    assert "PREFECT_API_URL is http://[::1/x; expected an address such as" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [("run",), ("status",), ("stage", "train"), ("record",), ("rollback", "--reason", "x")],
)
def test_outside_a_checkout_the_error_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    result = segops(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert "no dvc.yaml here or above" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_an_unknown_stage_is_refused_with_the_names(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    result = segops("stage", "training", cwd=tmp_path)
    assert result.returncode == 1
    assert "no stage is called training; expected one of code, augment, evaluate" in result.stderr


def test_a_bad_parameter_stops_a_stage_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {lr: fast}\n")
    result = segops("stage", "train", cwd=tmp_path)
    assert result.returncode == 1
    assert "train.lr" in result.stderr
    assert "'fast'" in result.stderr
    assert "Traceback" not in result.stderr
