"""Whether the user asked for a training from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segops.train.fresh import is_forced, wants_fresh


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/usr/bin/python3 /venv/bin/dvc repro", False),
        ("/usr/bin/python3 /venv/bin/dvc repro -f", True),
        ("/usr/bin/python3 /venv/bin/dvc repro --force train", True),
        ("python -m dvc repro --single-item --force train", True),
        ("python -X utf8 -m dvc -q repro -sf train", True),
        ("dvc --cd somewhere repro -f", True),
        ("dvc exp run -f -S train.lr=0.1", True),
        ("dvc exp run --temp -S train.f=1", False),
        ("dvc exp run -Strain.lr=0.1 -n fast", False),
        ("dvc repro --force-downstream train", False),
        ("dvc exp show --force", None),
        ("dvc push -f", None),
        ("python train.py --force repro", None),
        ("bash -c ls", None),
        ("", None),
    ],
)
def test_command_lines(command: str, expected: bool | None) -> None:
    assert is_forced(command.split()) is expected


def test_the_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGOPS_FRESH", raising=False)
    assert not wants_fresh()
    monkeypatch.setenv("SEGOPS_FRESH", "1")
    assert wants_fresh()
    monkeypatch.setenv("SEGOPS_FRESH", "0")
    assert not wants_fresh()


def test_a_real_dvc_is_asked(tmp_path: Path) -> None:
    """The stage runs below a shell below DVC, and finds what DVC was told."""
    probe = "from segops.train.fresh import wants_fresh as w; open('out.txt', 'w').write(str(w()))"
    (tmp_path / "probe.py").write_text(probe)
    (tmp_path / "dvc.yaml").write_text(
        f"stages:\n  probe:\n    cmd: '{sys.executable} probe.py'\n    deps: [probe.py]\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SEGOPS_FRESH"}

    def dvc(*arguments: str) -> str:
        subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
        out = tmp_path / "out.txt"
        return out.read_text() if out.exists() else ""

    dvc("init", "--no-scm")
    assert dvc("repro") == "False"
    assert dvc("repro", "--single-item", "--force", "probe") == "True"
