"""Log lines for programs: each is a JSON object. ``SEGOPS_LOG_FORMAT=json`` asks for them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

FORMAT = "SEGOPS_LOG_FORMAT"
Logger = logging.Logger | logging.LoggerAdapter[Any]
PREFECT = {
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_": "segops.logs.JsonFormatter",
}
"""Settings with which a process of Prefect's own, before it loads a flow, writes JSON too."""
LEVELS = logging.getLevelNamesMapping()

about: dict[str, str] = {}
"""What every line of this process tells besides its message: the stage that it runs."""


def wants_json() -> bool:
    """Whether this process and its children write JSON."""
    return os.environ.get(FORMAT) == "json"


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object of one line.

    Keys: `time` (UTC, ISO 8601), `level`, `logger`, `message`; where known `run`, `run_id` and
    `stage`; `exception` with the traceback. Options of other formatters are ignored.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "run": getattr(record, "flow_run_name", None),
            "run_id": getattr(record, "flow_run_id", None),
            "stage": getattr(record, "task_run_name", None),
            **about,
        }
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = self.formatException(record.exc_info)
        known = {key: value for key, value in told.items() if value is not None}
        return json.dumps(known, default=str)


def use_json() -> None:
    """Write all that this process logs as JSON to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.root.handlers[:] = [handler]


def forwarding(log: Logger) -> Callable[[str], None]:
    """Return a function that logs a line of a child process, with its level where it is JSON."""

    def forward(line: str) -> None:
        told = parsed(line)
        if told is None:
            log.info(line)
        else:
            traceback = f"\n{told['exception']}" if "exception" in told else ""
            log.log(LEVELS[told["level"]], "%s%s", told["message"], traceback)

    return forward


def parsed(line: str) -> dict[str, Any] | None:
    """Return what a line of :class:`JsonFormatter` tells; None for any other line."""
    if not (wants_json() and line.startswith('{"time": "')):
        return None
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return told if told.get("level") in LEVELS and isinstance(told.get("message"), str) else None
