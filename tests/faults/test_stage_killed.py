"""SIGKILL of the starter, of the stage or of all processes while a stage runs.

Afterwards no process is left, and the stage, run once more, gives the result that it gives when
nothing disturbs it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from segops import paths, pipeline
from tests.integration.conftest import committed, reproduced, shared

__all__ = ["committed", "reproduced", "shared"]

STARTER = """
import sys
from pathlib import Path
from segops import pipeline
from segops.runtime.errors import SegopsError
try:
    pipeline.run_stage(Path.cwd(), sys.argv[1], print, force=True)
except SegopsError as error:
    sys.exit(f"{error}")
"""
STAGES = ("code", "validate", "prepare", "augment", "train", "package", "export", "evaluate")
WHO = ("starter", "stage", "all")
SLOW = (("starter", "prepare"), ("stage", "package"))
"""The faults that stand for the others in the slow tier."""


@pytest.fixture
def workspace(reproduced: Path, tmp_path: Path) -> Path:
    """A workspace in which every stage has run."""
    record = shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    return shutil.copytree(reproduced, tmp_path / "workspace", symlinks=True, ignore=record)


def outputs(root: Path, stage: str) -> dict[str, str]:
    """The MD5 of each output of a stage, as DVC recorded it."""
    locked: dict[str, Any] = yaml.safe_load((root / "dvc.lock").read_text())["stages"][stage]
    return {one["path"]: one["md5"] for one in locked["outs"]}


def is_stage(process: psutil.Process, stage: str) -> bool:
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        return line[-2:] == ["stage", stage] and "python" in line[0]
    return False


@pytest.mark.parametrize(
    ("who", "stage"),
    [
        pytest.param(
            who, stage, marks=pytest.mark.slow if (who, stage) in SLOW else pytest.mark.long
        )
        for stage in STAGES
        for who in WHO
    ],
)
def test_a_killed_stage_is_made_again(who: str, stage: str, workspace: Path) -> None:
    before = outputs(workspace, stage)
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, stage],
        cwd=workspace,
        env=pipeline.environment() | {"SEGOPS_LIVE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    own = psutil.Process(starter.pid)
    found: list[psutil.Process] = []
    end = time.monotonic() + 120
    while not (found := [one for one in own.children(recursive=True) if is_stage(one, stage)]):
        assert starter.poll() is None, starter.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    family = [own, *own.children(recursive=True)]
    killed = {"starter": [own], "stage": found[:1], "all": family}[who]
    for one in killed:
        one.send_signal(signal.SIGKILL)
    said = starter.communicate()[0]
    if who == "stage":
        assert starter.returncode == 1, said
        assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [one.cmdline() for one in alive] == []
    assert pipeline.running(workspace) is None
    pipeline.run_stage(workspace, stage, print)
    assert pipeline.is_unchanged(workspace, stage)
    assert own_results(outputs(workspace, stage)) == own_results(before)
    hidden = [
        path
        for folder in ("data", "models", "metrics", "plots", "reports", "code")
        for path in (workspace / folder).glob(".*")
        if path.name not in (".gitignore",)
    ]
    assert hidden == [], "what was half-written is gone"


def own_results(found: dict[str, str]) -> dict[str, str]:
    """Without the files that hold times."""
    timed = {paths.TRAINING.as_posix(), paths.EVALUATION.as_posix(), "reports/evaluation.html"}
    return {path: md5 for path, md5 in found.items() if path not in timed}
