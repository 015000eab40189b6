"""What the machine refuses becomes a sentence: path, what is missing, what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset

from segops import faults, files
from segops.data.workers import stream_loader
from segops.runtime.errors import SegopsError

TOO_LARGE = 1 << 60


def full_disk(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with (tmp_path / "full").open("wb") as file:
        file.write(b"x")


def full_disk_of_a_library(_: Path) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def full_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE x (y)")


def database_in_no_directory(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "gone/x.db")


def file_for_directory(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    files.write_text(tmp_path / "reports/page.html", "x")


def directory_for_file(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    (tmp_path / "page.html").write_text("x")


def cause_of_another(tmp_path: Path) -> None:
    try:
        (tmp_path / "gone/x").read_text()
    except OSError as error:
        raise RuntimeError("a library's words") from error


class Deadly(Dataset[int]):
    def __init__(self, signal: signal.Signals) -> None:
        self.signal = signal

    def __getitem__(self, _: int) -> int:
        os.kill(os.getpid(), self.signal)
        return 0


def ended_worker(signal: signal.Signals) -> Callable[[Path], None]:
    def read(_: Path) -> None:
        for _sample in stream_loader(Deadly(signal), [[0]], list, workers=1, pin_memory=False):
            raise AssertionError

    return read


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "full disk": (full_disk, r"A disk \(free: \d+ MiB at .*\): the disk is full\. Free space"),
    "full database": (full_database, r"the disk is full\. Free space"),
    "no database": (database_in_no_directory, "^you lack the right to use it"),
    "numpy": (lambda _: np.empty(TOO_LARGE, np.uint8), "^not enough memory. End other programs"),
    "torch": (lambda _: torch.empty(TOO_LARGE), "^not enough memory. End other programs"),
    "python": (lambda _: bytearray(TOO_LARGE), "^not enough memory. End other programs"),
    "file for directory": (file_for_directory, "reports: (a file|something else) is in"),
    "directory for file": (directory_for_file, "page.html: a directory is in the place of a file"),
    "missing": (lambda path: (path / "x").read_text(), "x: no such file or directory. Check"),
    "long": (lambda path: (path / ("x" * 300)).touch(), "xx: File name too long. Check this path"),
    "cause": (cause_of_another, "gone/x: no such file or directory"),
    "killed worker": (
        ended_worker(signal.SIGKILL),
        r"^Process \d+, which made samples, was ended .* \(Killed\), as .* hardware\.workers",
    ),
    "full buffers": (ended_worker(signal.SIGBUS), r"^/dev/shm is full\. Enlarge"),
    "shared memory": (lambda _: torch.UntypedStorage._new_shared(1 << 46), r"^/dev/shm is full\."),
    "library": (full_disk_of_a_library, r"A disk .*: the disk is full\. Free space"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_sentence_says_what_and_what_to_do(case: str, tmp_path: Path) -> None:
    deed, words = CASES[case]
    with pytest.raises(SegopsError, match=words) as raised, faults.named():
        deed(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", faults.SHORTAGES)
def test_every_shortage_names_the_path(number: int) -> None:
    with pytest.raises(SegopsError, match=r"^/data/x: .+\. .+, then repeat"), faults.named():
        raise OSError(number, os.strerror(number), "/data/x")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        RuntimeError("a bug"),
        OSError("neither what nor where"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    ],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, faults.named():
        raise error
    assert raised.value is error


def test_an_error_of_ours_passes_as_it_is() -> None:
    ours = SegopsError("a sentence")
    ours.__cause__ = MemoryError()
    with pytest.raises(SegopsError, match="a sentence") as raised, faults.named():
        raise ours
    assert raised.value is ours


def test_a_command_that_cannot_write_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    done = subprocess.run(
        [sys.executable, "-m", "segops", "stage", "code"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"\S+\.json: the file would be larger than allowed\. Raise", done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.rglob("*.json*"))


def test_no_room_for_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/full"])
    with (
        pytest.raises(SegopsError, match=r"No usable temporary directory .*/dev/full.* set TMPDIR"),
        faults.named(),
        files.scratch(),
    ):
        pass
