"""How a failed run is told: its cause is the state's message and is logged at ERROR.

Prefect logs a traceback of each exception that ends a run. A :class:`SegopsError` says what to do
and needs none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed
from websockets.exceptions import WebSocketException

from segops import logs
from segops.failure import shortened
from segops.runtime.errors import SegopsError
from segops.words import first_line

LONGEST = 4000
"""Characters of a state's message; a longer cause stands in the log as a whole."""
ENDED = "Finished in state Failed("
AGAIN = ("Engine execution exited", "Execution of flow run", "Execution exited")
"""Beginnings of messages that repeat the exception of a failed run."""
CLIENT_ERRORS = (httpx.HTTPError, WebSocketException)
"""What Prefect's client raises of its own where a server is away, or is none."""
OBSERVERS = ("FlowRunCancellingObserver", "FlowRunSuspendingObserver")
"""Parts of Prefect's runner and engine that ask the server whether to stop a run."""
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
    """Put the error of a record into its message, in the place of the traceback."""
    if record.exc_info and record.exc_info[1] is not None:
        words = f"{record.getMessage()} {first_line(record.exc_info[1])}"
        record.msg, record.args, record.exc_info = words.strip(), (), None
    return True


_make = logging.getLogRecordFactory()


def _without_traceback(*some: Any, **more: Any) -> logging.LogRecord:
    """Make a record; Prefect's records of a server that is away have no traceback."""
    record = _make(*some, **more)
    error = record.exc_info[1] if record.exc_info else None
    if record.name.startswith("prefect") and isinstance(error, CLIENT_ERRORS):
        _in_a_line(record)
    return record


def _is_no_observer(record: logging.LogRecord) -> bool:
    return not any(one in record.getMessage() for one in OBSERVERS)


logging.setLogRecordFactory(_without_traceback)
for _name in OBSERVERS:
    logging.getLogger(f"prefect.{_name}").addFilter(_in_a_line)
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
