"""Runs a module of this room in a process of its own outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from segops import files
from segops.children import child_environment

LAST_WORDS = 15
"""Lines of a crashed process's standard error that an error message repeats."""


@contextmanager
def apart(
    module: str, request: Mapping[str, Any], stdin: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """Start a module with the path of a request; the process is killed at the end.

    Its directory is empty and outside any checkout: nothing in it is importable.

    Args:
        module: Its name.
        request: What it reads as JSON.
        stdin: Its standard input, as of :class:`subprocess.Popen`.

    Yields:
        The process, whose standard output is a pipe, and the file of its standard error.
    """
    with files.scratch() as scratch, tempfile.TemporaryFile() as words:
        path = scratch / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        with subprocess.Popen(
            [sys.executable, "-m", module, str(path)],
            cwd=scratch,
            env=child_environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            encoding="utf-8",
        ) as process:
            try:
                yield process, words
            finally:
                process.kill()


def last_words(stream: IO[bytes]) -> str:
    """The last lines that a process wrote to its standard error."""
    stream.seek(0)
    lines = stream.read().decode("utf-8", errors="replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_WORDS:])
