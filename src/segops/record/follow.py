"""Logs a training live to MLflow from a separate process.

Training appends one line per epoch to ``.segops/history.jsonl``; this process reads that file. When
the tracking server is away, epochs are delivered later, here or by
:func:`segops.record.update.record`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segops import paths
from segops.params.file import load_params
from segops.record import columns, runs
from segops.record.tracking import Store, locked, session
from segops.runtime.errors import SegopsError

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BEFORE_RETRY = 10.0
SECONDS_AFTER_END = 60.0
"""A process that still runs this long after its training ended is doing something else."""
log = logging.getLogger("segops")


@dataclass
class CurveHistory:
    """The epochs that a training has written to its history file so far.

    Attributes:
        fingerprint: The training's fingerprint; empty before the first line is written.
        rows: Epoch -> its line; the last line where a resume trained an epoch again.
        ended: Whether the training wrote that it has ended.
        params: The training's parameters by dotted key.
    """

    path: Path
    fingerprint: str = ""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: bool = False
    params: dict[str, Any] = field(default_factory=dict)

    def refresh(self) -> bool:
        """Read the file again, but for an incomplete last line; return whether anything changed.

        Raises:
            SegopsError: A line is not JSON.
        """
        before = (self.fingerprint, dict(self.rows), self.ended)
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        try:
            lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        except json.JSONDecodeError as error:
            raise SegopsError(f"{self.path}: a line is not JSON: {error}.") from None
        for line in lines:
            if "fingerprint" in line:
                if line["fingerprint"] != self.fingerprint:
                    self.fingerprint, self.rows = str(line["fingerprint"]), {}
                self.ended = False
                self.params = dict(line.get("params", {}))
            elif "epoch" in line:
                self.rows[int(line["epoch"])] = line
            else:
                self.ended = True
        return before != (self.fingerprint, self.rows, self.ended)


def follow(root: Path, pid: int) -> int:
    """Log the training of a process live to MLflow until it ends, each epoch once.

    Returns:
        0 when every epoch was delivered, else 1; `segops record` delivers the missing epochs.

    Raises:
        SegopsError: ``params.yaml`` is not usable.
    """
    settings = load_params(root).registry
    os.nice(10)  # training goes first
    history = CurveHistory(root / paths.HISTORY)
    while True:
        is_over = not runs.is_alive(pid)
        try:
            history.refresh()
            if history.fingerprint and (is_over or not history.ended):
                with session(root, settings) as store:
                    return _deliver_until_end(root, store, history, pid)
        except SegopsError as error:
            log.warning("Live logging to MLflow: %s", error)
            if is_over:
                return 1
            _sleep_while_alive(pid, SECONDS_BEFORE_RETRY)
        else:
            # If the file says "ended" while training runs, it belongs to the previous training.
            if is_over:
                return 1
            _sleep_while_alive(pid, SECONDS_BETWEEN_LOOKS)


def _deliver_until_end(root: Path, store: Store, history: CurveHistory, pid: int) -> int:
    """Deliver new epochs until the training has ended and all its epochs are delivered."""
    fingerprint, run_id = "", ""
    delivered: set[int] = set()
    ended_at: float | None = None
    while True:
        alive = runs.is_alive(pid)
        history.refresh()
        if history.fingerprint != fingerprint:
            if run_id:  # the file began with the history of a killed training
                _close(store, run_id, "KILLED")
            fingerprint, delivered = history.fingerprint, set()
            with locked(root, "record"):
                if not alive and _is_recorded(store, history):
                    return 0
                run_id = _run(store, root, history, pid)
        if set(history.rows) - delivered:
            with locked(root, "record"):
                runs.add_epochs(store, run_id, history.rows.values())
            delivered = set(history.rows)
        if not history.ended:
            ended_at = None
        elif ended_at is None:
            ended_at = time.monotonic()
        if not alive or (ended_at and time.monotonic() - ended_at > SECONDS_AFTER_END):
            # The training that resumes a killed one finds its run as KILLED and continues it.
            _close(store, run_id, "FINISHED" if history.ended else "KILLED")
            return 0
        _sleep_while_alive(pid, SECONDS_BETWEEN_LOOKS)


def _is_recorded(store: Store, history: CurveHistory) -> bool:
    """Whether `segops record` already delivered a training that ended before this process ran."""
    return any(
        runs.WEIGHTS in run.data.tags
        and runs.are_logged(runs.epochs(store, run.info.run_id), history.rows.values())
        for run in runs.tagged(store, runs.FINGERPRINT, history.fingerprint)
    )


def _close(store: Store, run_id: str, status: str) -> None:
    """End a live run, unless `segops record` has completed it."""
    if runs.WEIGHTS not in store.client.get_run(run_id).data.tags:
        store.client.set_terminated(run_id, status)


def _run(store: Store, root: Path, history: CurveHistory, pid: int) -> str:
    """Return the live run of an interrupted attempt at this training, else a new run."""
    run = runs.find_live(store, history.fingerprint)
    if run is not None:
        known = runs.epochs(store, run.info.run_id)
        if runs.differ(known, history.rows.values(), complete=False):
            runs.supersede(store, run)
            run = None
    if run is None:
        run = runs.create(store, history.fingerprint)
    run_id = str(run.info.run_id)
    store.client.update_run(run_id, status="RUNNING")
    runs.begin(store, run, root, history.fingerprint)
    columns.fill(store, run_id)
    process = {runs.TRAINING_PROCESS: f"{socket.gethostname()}:{pid}"}
    runs.add_tags(store, run, process, overwrite=True)
    runs.add_params(store, run, load_params(root).flat())
    return run_id


def _sleep_while_alive(pid: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and runs.is_alive(pid):
        time.sleep(min(0.2, seconds))
