"""A tied process and its children end with their starter, however that one ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

MODULE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, *sys.argv[1:], flush=True)
child.wait()
"""
STARTER = """
import os, subprocess, sys
tied, holding = os.pipe()
command = [sys.executable, "-m", "segops.tied", str(tied), "long_work", "--two", "words"]
process = subprocess.Popen(command, pass_fds=[tied], start_new_session=True)
print(process.pid, flush=True)
process.wait()
"""


@pytest.fixture
def starter(tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "long_work.py").write_text(MODULE)
    return subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )


def test_nothing_outlives_a_killed_starter(starter: subprocess.Popen[str]) -> None:
    assert starter.stdout is not None
    with starter:
        tied = psutil.Process(int(starter.stdout.readline()))
        pid, *arguments = starter.stdout.readline().split()
        child = psutil.Process(int(pid))
        starter.kill()
    assert arguments == ["--two", "words"]
    _, alive = psutil.wait_procs([tied, child], timeout=60)
    for one in alive:
        one.kill()
    assert alive == []
