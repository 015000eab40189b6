"""What processes that segops starts have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

import segops
from segops import files
from segops.runtime.errors import SegopsError

MANY = 1000
"""Images from which on processes pay; they start in the time of some hundred images."""
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


def shared_out(
    module: str, request: Mapping[str, Any], items: Sequence[Any], processes: int
) -> Iterator[dict[str, Any]]:
    """Yield what processes of a module reply to items, in the order of the items.

    Args:
        module: Its name; it calls :func:`reply_to_items`.
        request: What all processes get as JSON.
        items: Ready for JSON; each process gets as many of them, one more or one less.
        processes: Number of processes, at least 1.

    Raises:
        SegopsError: As :func:`reply`; the message begins with the item.
    """
    with ExitStack() as stack:
        started = [
            stack.enter_context(apart(module, {**request, "items": items[first::processes]}))
            for first in range(processes)
        ]
        for number, item in enumerate(items):
            yield reply(*started[number % processes], item if isinstance(item, str) else item[0])


def reply_to_items(prepare: Callable[[Any], Callable[[Any], dict[str, Any]]]) -> None:
    """In a process of :func:`shared_out`: reply to each item of its request.

    Args:
        prepare: Takes the request, and returns what makes the reply to an item; NumPy's arrays and
            numbers in it become lists and numbers.
    """
    request = files.read_json(Path(sys.argv[1]))
    with to_parent() as parent:
        work = prepare(request)
        for item in request["items"]:
            line = json.dumps(work(item), default=lambda one: one.tolist())
            print(line, file=parent, flush=True)
