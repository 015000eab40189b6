"""Starts MLflow's and Prefect's servers, and a schedule, and ends all of them together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from flows import server
from flows.signals import stopped_by_signals
from segops import pipeline
from segops.record import page
from segops.runtime.errors import SegopsError

LOOK_SECONDS = 0.3
SCHEDULE_SECONDS = 40.0
"""Time for a schedule to cancel its run and to pause."""


class Schedule:
    """`segops schedule` in a process of its own, which ends, however this process ends.

    Args:
        root: The workspace.
        options: Of the command.
        url: The Prefect server's API.
    """

    name = "schedule"

    def __init__(self, root: Path, options: Sequence[str], url: str) -> None:
        tied, self._holding = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "segops.tied", str(tied), "segops", "schedule", *options],
            cwd=root,
            env={**pipeline.environment(), "PREFECT_API_URL": url},
            stdin=subprocess.DEVNULL,
            pass_fds=[tied],
            start_new_session=True,  # Ctrl-C is for this process, which ends the schedule first
        )
        os.close(tied)

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def last_line(self) -> str:
        """Return nothing: it writes to the terminal."""
        return "its message stands above"

    def stop(self) -> None:
        """Let it pause the schedule and end."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SCHEDULE_SECONDS)
        os.close(self._holding)
        self._process.wait()


def up(
    root: Path,
    uri: str | None,
    ports: tuple[int, int],
    schedule: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Serve until a signal stops it.

    Args:
        root: The workspace.
        uri: Address of the record's database; None: a server elsewhere has it.
        ports: Of MLflow's and of Prefect's server.
        schedule: Options of `segops schedule`; empty: none is served.
        say: Called with each line to print.

    Raises:
        SegopsError: A port is taken, or one of the processes did not start or has ended; the others
            are ended.
    """
    from flows.credentials import credentials, whereabouts

    credentials()  # generates them before two processes ask for them
    with stopped_by_signals(), ExitStack() as ending:
        running: list[server.Server | Schedule] = []
        if uri is not None:
            os.environ[page.URI] = uri
            running.append(server.Server(ports[0], kind="mlflow"))
            ending.callback(running[-1].stop)
        prefect = server.Server(ports[1])
        running.append(prefect)
        ending.callback(prefect.stop)
        for one in running:
            assert isinstance(one, server.Server)
            one.await_start()
            say(f"{one.name}: {one.address}")
        say(
            f"To log in, enter {whereabouts()}. Prefect's page takes the whole line; MLflow's "
            "takes the name before the colon and the password after it."
        )
        if schedule:
            running.append(Schedule(root, schedule, f"{prefect.address}/api"))
            ending.callback(running[-1].stop)
        say("Ctrl-C ends all.")
        while all(one.is_running for one in running):
            time.sleep(LOOK_SECONDS)
        ended = next(one for one in running if not one.is_running)
        raise SegopsError(
            f"The {ended.name} process has ended ({ended.last_line() or 'without a word'}); the "
            "others are stopped. Start `segops up` again."
        )
