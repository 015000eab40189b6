"""What processes that segops starts have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

import segops
from segops import files
from segops.runtime.errors import SegopsError

LAST_WORDS = 15
"""Lines of a crashed process's standard error that an error message repeats."""


def child_environment() -> dict[str, str]:
    """The environment of a child process that imports the very segops that this process runs."""
    here = str(Path(segops.__file__).resolve().parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


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


def to_parent() -> TextIO:
    """In a process of :func:`apart`: its pipe to the parent, for lines of JSON alone.

    What else is printed from now on goes to standard error.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def reply(process: subprocess.Popen[str], words: IO[bytes], subject: str) -> dict[str, Any]:
    """Read the next line of a process of :func:`apart`, an object as JSON.

    Raises:
        SegopsError: The line is an error, or the process has ended; the message then begins with
            the `subject` of its work.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith("\n"):
        raise SegopsError(
            f"{subject}: the process that works on it ended with status {process.wait()}. "
            f"Its last words:\n{last_words(words)}"
        )
    message: dict[str, Any] = json.loads(line)
    if "error" in message:
        raise SegopsError(message["error"])
    return message
