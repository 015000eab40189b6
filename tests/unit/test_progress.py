"""Progress as log lines and as a bar."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from segops import progress as module
from segops.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_written_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "segops"):
        with Progress("downloading", 20_000_000, in_bytes=True) as progress:
            progress.reach(1_000_000)  # The last line, or the start, is less than 10 s ago.
            monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
            progress.reach(2_000_000)
            progress.reach(20_000_000)
        Progress("unknown length", in_bytes=True).reach(3_000_000)
        assert list(track("ab", "letters")) == ["a", "b"]
        assert list(track(iter("a"), "endless")) == ["a"]
    assert [re.sub(r", \d+ s$", "", line) for line in caplog.messages] == [
        "downloading: 2.0 of 20.0 MB",
        "unknown length: 3.0 of ? MB",
        "letters: 1 of 2",
        "endless: 1 of ?",
    ]


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("downloading", 1_000_000, done=500_000, in_bytes=True) as progress:
        assert progress.bar.n == 500_000
        progress.reach(1_000_000)
        assert progress.bar.n == 1_000_000
    assert "downloading" in terminal.getvalue()
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert "letters" in terminal.getvalue()
