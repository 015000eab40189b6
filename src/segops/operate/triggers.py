"""Starts a run where the data are no longer those of the champion.

The data are those of a branch, whose run works in a worktree at the branch's commit, or a folder,
whose run works in the workspace.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from segops import files, logs, paths, pipeline
from segops.operate import data_version, messages, notify
from segops.params.file import load_params
from segops.record.lineage import started_by, tag
from segops.runtime.errors import SegopsError, TransientError

WATCHED = paths.STATE / "watched.json"
LOCK = paths.STATE / "watch.lock"
ATTEMPTS = 3
"""Runs for the same data that fail, until the data change."""
DECIDED = (0, 3)
"""Exit statuses of `segops run` that say that the gate has decided."""
FETCH_SECONDS = 300
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Found:
    """Data that a source has now.

    Attributes:
        md5: As DVC has it.
        commands: What makes a run of them: arguments of `segops`, one command after the other.
    """

    md5: str
    commands: tuple[tuple[str, ...], ...]


class Source(Protocol):
    """Where new data come from."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def look(self, root: Path) -> Found | None:
        """Return the data; None where they still change.

        Raises:
            SegopsError: There are none, or they are not readable.
        """


@dataclass(frozen=True)
class Branch:
    """A branch of a remote, such as `origin/main`, or a local one.

    Attributes:
        name: The branch.
    """

    name: str

    def look(self, root: Path) -> Found:
        """Fetch the branch and return its data."""
        if self.name.startswith("-"):
            raise SegopsError(f"--branch {self.name}: expected REMOTE/BRANCH such as origin/main.")
        remote, _, branch = self.name.partition("/")
        if branch and remote in _git(root, "remote").split():
            _git(root, "fetch", "--quiet", remote, branch)
        present = load_params(root).data
        commit, md5 = data_version.tracked_md5(root, self.name, present)
        return Found(md5, (("run", "--isolated", "--revision", commit),))


@dataclass(frozen=True)
class Folder:
    """A folder in VOC layout, where images arrive.

    Attributes:
        path: The data directory itself, or another, which is put in its place.
        quiet: Seconds without a change after which the data are complete.
    """

    path: Path
    quiet: float

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.path)

    def look(self, root: Path) -> Found | None:
        """Return the folder's data, or None where the last change is too recent."""
        if not self.path.is_dir():
            raise SegopsError(f"--folder {self.path}: no such directory.")
        if time.time() - last_change(self.path) < self.quiet:
            return None
        run = ("run",)
        own = (root / load_params(root).data.path).resolve()
        if self.path.resolve() == own:
            commands: tuple[tuple[str, ...], ...] = (run,)
        else:
            commands = (("data", "use", str(self.path.resolve())), run)
        return Found(pipeline.directory_md5(root, self.path), commands)


def last_change(directory: Path) -> float:
    """Return when anything below a directory changed last, in seconds since 1970.

    The time is the kernel's, since a copy may keep an older time of modification.
    """
    newest = directory.stat().st_ctime
    for name, _, _ in os.walk(directory):
        with os.scandir(name) as entries:
            for entry in entries:
                newest = max(newest, entry.stat(follow_symlinks=False).st_ctime)
    return newest


def watch(root: Path, source: Source, every: float, *, once: bool = False) -> int:
    """Look for new data again and again, and make a run of them.

    Data that are the champion's, that the gate has decided on, or whose runs failed
    :data:`ATTEMPTS` times, start no run.

    Args:
        root: The workspace.
        source: Where the data come from.
        every: Seconds between two looks.
        once: Look once.

    Returns:
        With `once`, the exit status: that of the run, 0 where none was due.

    Raises:
        SegopsError: Another process watches in this workspace; with `once`, the look failed.
    """
    with files.exclusive(root / LOCK, "another `segops watch`"):
        while True:
            try:
                status = _check(root, source)
            except SegopsError as error:
                if once:
                    raise
                log.warning("%s", error)
                status = 1
            if once:
                return status
            time.sleep(every)


def _check(root: Path, source: Source) -> int:
    found = source.look(root)
    if found is None:
        log.info("%s still changes.", source.name)
        return 0
    seen = _noted(root).get(source.name)
    attempts, decided = 0, False
    if isinstance(seen, dict) and seen.get("md5") == found.md5:
        attempts, decided = seen["attempts"], seen.get("status") in DECIDED
    if decided or attempts >= ATTEMPTS:
        return 0
    if champion_md5(root) == found.md5:
        return 0
    _note(root, source, md5=found.md5, attempts=attempts + 1)
    log.info("%s has new data (%s): a run starts.", source.name, found.md5)
    status = _run(root, source, found)
    _note(root, source, md5=found.md5, attempts=attempts + 1, status=status)
    if status not in DECIDED and attempts + 1 == ATTEMPTS:
        what = f"{source.name}: {ATTEMPTS} runs of the same data"
        next_one = "The next one starts when the data change. `segops run` makes one now."
        log.error("%s have failed. %s", what, next_one)
        notify.tell(root, messages.failed(what, next_one), by_hand=False)
    return status


def champion_md5(root: Path) -> str | None:
    """Return DVC's MD5 of the champion's data; None without a champion.

    Raises:
        TransientError: MLflow does not answer.
    """
    from segops.record.tracking import NoRecordError, session
    from segops.release import versions

    settings = load_params(root).registry
    try:
        with session(root, settings, create=False) as store:
            number = versions.aliases(store, settings.model).get(versions.CHAMPION)
            if number is None:
                return None
            run = store.client.get_run(versions.get(store, settings.model, number).run_id)
            return run.data.tags.get(tag("data_md5"))
    except NoRecordError:
        return None


def _run(root: Path, source: Source, found: Found) -> int:
    """Run the commands in processes that end with this one, until one fails."""
    variables = {
        "SEGOPS_STARTED_BY": f"new data {found.md5} in {source.name}, seen by {started_by()}",
        notify.UNATTENDED: "1",
    }
    status, say = 0, logs.forwarding(log)
    for command in found.commands:
        status, _ = pipeline.run_tied(root, ["segops", *command], say, variables)
        if status != 0:
            break
    return status


def _noted(root: Path) -> dict[str, Any]:
    """Return what is noted about the data that each source had last."""
    try:
        noted = json.loads((root / WATCHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(root: Path, source: Source, **values: Any) -> None:
    files.write_json(root / WATCHED, {**_noted(root), source.name: values})


def _git(root: Path, *arguments: str) -> str:
    """Return git's output.

    Raises:
        TransientError: It fails, or takes longer than :data:`FETCH_SECONDS`.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        words = f"no answer within {FETCH_SECONDS} s"
    except FileNotFoundError:
        words = "git is not installed"
    except subprocess.CalledProcessError as error:
        words = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
    else:
        return done.stdout
    raise TransientError(f"`git {' '.join(arguments)}` failed: {words}.")
