"""Hands the cause of a stage's failure from the stage's process to the one that runs the stage.

The starter names a file in the environment; the stage writes the cause into it. DVC stands between
the two and passes on a status and lines alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from segops import faults, files, logs, paths
from segops.runtime.errors import SegopsError

PLACE = "SEGOPS_FAILURE"
"""The environment variable that names the file."""
DVC_FAILED = "ERROR: failed to reproduce "
LAST_LINES = 10
LONGEST_LINE = 300
TRACEBACK = "Traceback (most recent call last):"


def shortened(text: str, most: int) -> str:
    """Return the text, or its beginning and " ..." where it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


class HandedOverError(Exception):
    """The stage's process has handed its cause over: it ends with status 1 and says nothing."""


@contextmanager
def handed_over() -> Iterator[None]:
    """Write what ends the block into the file that the starter of this process names, if any.

    Raises:
        HandedOverError: A user's mistake, or what the machine refused, is handed over.
        SegopsError: The same, where no file is named or it cannot be written.
    """
    place = os.environ.pop(PLACE, None)  # the failure of a child of this process is its own
    try:
        with faults.named():
            yield
    except Exception as error:
        if place is None:
            raise
        is_known = isinstance(error, SegopsError)
        last = traceback.format_exception_only(error)[-1].strip()
        try:
            files.write_json(
                Path(place), {"cause": str(error) if is_known else last, "is_known": is_known}
            )
        except OSError:
            raise error from None
        if is_known:
            raise HandedOverError from None
        raise


@contextmanager
def expected(root: Path) -> Iterator[Path]:
    """Yield the file for the cause of a stage's failure; it does not exist yet."""
    place = root / paths.FAILURE
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        yield place
    finally:
        place.unlink(missing_ok=True)


def cause(stage: str, place: Path, lines: Sequence[str]) -> str | None:
    """Return the cause that a stage has handed over, or None.

    The last lines that the stage printed follow an exception that is no :class:`SegopsError`.
    """
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        told = json.loads(place.read_text(encoding="utf-8"))
        if told["is_known"]:
            return f"{stage}: {told['cause']}"
        return f"{stage}: {told['cause']}{_last_lines(stage, lines)}"
    return None


def without_cause(stage: str, lines: Sequence[str]) -> str:
    """Return what is known of a stage that was killed, or that DVC did not run."""
    failed = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
    status = re.search(r"exited with (-?\d+)$", failed)
    if status is None:
        return f"{stage}: {failed.removeprefix('ERROR: ')}"
    what = f"the process ended with status {status[1]}."
    if int(status[1]) < 0:
        with suppress(ValueError):
            what = f"{signal.Signals(-int(status[1])).name} ended the process."
        if int(status[1]) == -signal.SIGKILL:
            what += " The system kills a process that takes too much memory."
    return f"{stage}: {what}{_last_lines(stage, lines)}"


def _last_lines(stage: str, lines: Sequence[str]) -> str:
    """Return the last lines that the stage printed before its traceback, if it printed any."""
    own = [_message(line) for line in lines if not line.startswith(DVC_FAILED)]
    started = f"Running stage '{stage}':"
    if started in own:
        own = own[own.index(started) + 2 :]  # DVC's line with the command follows
    if TRACEBACK in own:
        own = own[: own.index(TRACEBACK)]
    if not own:
        return ""
    return "\nThe last lines of its log:" + "".join(
        f"\n  {shortened(line, LONGEST_LINE)}" for line in own[-LAST_LINES:]
    )


def _message(line: str) -> str:
    """Return a line as people read it; that of an exception as the start of its traceback."""
    told = logs.parsed(line)
    if told is None:
        return line
    return TRACEBACK if "exception" in told else str(told["message"])
