"""Says how much history of runs Prefect's home holds; the server itself removes what is old."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from segops.operate.space import taken
from segops.operate.surroundings import prefect_home
from segops.params.notify import HISTORY_HOURS
from segops.runtime.errors import SegopsError
from segops.words import counted, shown_size

DATABASE = "prefect.db"
DAYS = HISTORY_HOURS // 24
ELSEWHERE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
"""Variables that place the database elsewhere."""
RETENTION = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"


def note() -> str | None:
    """Return a sentence on the database in Prefect's home, which is only read; None without one.

    None too where a variable places the server or its database elsewhere.
    """
    if any(os.environ.get(name) for name in ("PREFECT_API_URL", *ELSEWHERE)):
        return None
    try:
        path = (prefect_home() / DATABASE).absolute()
        if not path.is_file():
            return None
    except (SegopsError, OSError):
        return None
    size = taken(*path.parent.glob(f"{DATABASE}*")).total
    return (
        f"Prefect's history {path} of all checkouts stays, {_runs(path)}{shown_size(size)}: a "
        f"server that segops starts removes runs that ended {DAYS} days ago, unless "
        f"{RETENTION} is set."
    )


def _runs(path: Path) -> str:
    """Return the number of runs in words; empty where it is not to be had."""
    # Without its server the database has no such file, and SQLite would make one.
    how = "mode=ro" if path.with_name(f"{DATABASE}-wal").exists() else "immutable=1"
    ended = f"SELECT count(*), sum(end_time < datetime('now', '-{DAYS} days')) FROM flow_run"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=1)) as base:
            number, old = base.execute(ended).fetchone()
    except sqlite3.Error:  # locked, or of another form
        return ""
    return f"{counted(number, 'flow run')} ({old or 0} of them ended over {DAYS} days ago) in "
