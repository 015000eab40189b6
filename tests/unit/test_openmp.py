"""How long idle threads of OpenMP spin, as libgomp itself tells when torch loads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_count(command: list[str], chosen: dict[str, str]) -> str:
    """The count that libgomp took, in a process with a user's choice in its environment.

    The process is ended as soon as libgomp has told.
    """
    free = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**free, **chosen, "OMP_DISPLAY_ENV": "verbose"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = []
    with process:
        for line in process.stderr:
            said.append(line)
            if "GOMP_SPINCOUNT" in line:
                os.killpg(process.pid, signal.SIGKILL)
                return line.split("'")[1]
    raise AssertionError("".join(said))  # torch comes with another OpenMP than GNU's


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"),
    ],
    ids=["nothing", "a count", "a policy"],
)
def test_threads_spin_briefly_unless_the_user_chose(chosen: dict[str, str], expected: str) -> None:
    assert spin_count(["-c", "import segops, torch"], chosen) == expected


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "segops.evaluate.scoring", "no such request"],
        ["-c", "from segops.tune import setup"],
        ["-c", "from segops.stages import train"],
        ["-c", "from segops.predict import folder"],
    ],
    ids=["scoring", "tune", "train", "predict"],
)
def test_every_process_that_computes_has_it(command: list[str]) -> None:
    assert spin_count(command, {}) == "10000"


def test_children_have_it() -> None:
    program = (
        "import segops, subprocess, sys; "
        "subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    )
    assert spin_count(["-c", program], {}) == "10000"
