"""How a failed run is told: its cause is the state's message and is logged at ERROR.

Prefect logs a traceback of each exception that ends a run. A :class:`SegopsError` says what to do
and needs none.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from segops import logs
from segops.failure import shortened
from segops.runtime.errors import SegopsError
from segops.words import first_line

LONGEST = 4000
"""Characters of a state's message; a longer cause stands in the log as a whole."""
ENDED = "Finished in state Failed("
AGAIN = ("Engine execution exited", "Execution of flow run", "Execution exited")
"""Beginnings of messages that repeat the exception of a failed run."""
OBSERVER = "FlowRunCancellingObserver"
"""Part of Prefect's runner that listens for cancellations."""
HOOK = ("Running hook 'tell'", "Hook 'tell' finished")
"""Beginnings of messages about :func:`flows.telling.tell`, which logs whom it told."""


def failed(error: SegopsError) -> State[Any]:
    """Return the state of a task or flow run that a user's mistake or the machine ended."""
    if len(str(error)) > LONGEST:
        get_run_logger().error("%s", error)
    return Failed(message=shortened(str(error), LONGEST), data=error)


def _tell_once(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(HOOK):
        return False
    if record.exc_info:
        error = record.exc_info[1]
        if isinstance(error, SegopsError) and str(record.msg).startswith(AGAIN):
            return False
        if error is None or isinstance(error, SegopsError):
            record.exc_info = None
    elif str(record.msg).startswith(ENDED):  # of a flow run, Prefect logs this at INFO
        record.levelno, record.levelname = logging.ERROR, logging.getLevelName(logging.ERROR)
    return True


if logs.wants_json():
    logs.use_json()  # in the place of Prefect's handler
for _name in ("prefect.engine", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_tell_once)


def _in_a_line(record: logging.LogRecord) -> bool:
    """Let Prefect's runner tell in a line that it lost its server; it goes on without."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, CancelledError):  # the runner ended what waited
        return False
    if error is not None:
        record.msg, record.args = f"{record.getMessage()} {first_line(error)}".strip(), ()
        record.exc_info = None
    return True


def _is_no_observer(record: logging.LogRecord) -> bool:
    return OBSERVER not in record.getMessage()


logging.getLogger(f"prefect.{OBSERVER}").addFilter(_in_a_line)
logging.getLogger("asyncio").addFilter(_is_no_observer)


def _is_no_end(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(ENDED)


@contextmanager
def told_by_caller() -> Iterator[None]:
    """Print no cause of a failed run, because the caller prints it at the end."""
    handlers = list(logging.root.handlers)
    for handler in handlers:
        handler.addFilter(_is_no_end)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_no_end)
