"""Starts a run where the data are no longer those of the champion.

The data are those of a branch, whose run works in a worktree at the branch's commit, or a folder,
whose run works in the workspace.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from segops import faults, files, logs, paths, pipeline
from segops.importers.by_params import use_by_params
from segops.operate import data_version, messages, notify
from segops.operate.turns import turn
from segops.operate.worktree import GitError, commit_of, git
from segops.params.file import load_params
from segops.pipeline import tracked
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

    def state(self, root: Path) -> str | None:
        """Return what is another one where the data may have changed; None while they change.

        Raises:
            SegopsError: There are none, or they are not readable.
        """

    def opened(self, root: Path, state: str) -> AbstractContextManager[Found | None]:
        """Provide the data of a state; None where they have changed since.

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

    def state(self, root: Path) -> str:
        """Fetch the branch and return its commit."""
        remote, _, branch = self.name.partition("/")
        try:
            if branch and remote in git(root, "remote").split():
                # A clone of a single branch would not keep another one by its short name.
                where = f"+refs/heads/{branch}:refs/remotes/{remote}/{branch}"
                git(root, "fetch", "--quiet", remote, where, timeout=FETCH_SECONDS)
        except GitError as error:
            raise TransientError(f"--branch {self.name}: {error}") from None
        return commit_of(root, self.name)

    @contextmanager
    def opened(self, root: Path, state: str) -> Iterator[Found]:
        """Provide the data that a commit names."""
        _, md5 = data_version.tracked_md5(root, state, load_params(root).data)
        yield Found(md5, (("run", "--isolated", "--revision", state),))


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

    def state(self, root: Path) -> str | None:
        """Return the time of the last change, or None where it is too recent."""
        if not self.path.is_dir():
            raise SegopsError(f"--folder {self.path}: no such directory.")
        changed = last_change(self.path)
        return None if time.time() - changed < self.quiet else repr(changed)

    @contextmanager
    def opened(self, root: Path, state: str) -> Iterator[Found | None]:
        """Provide the folder's data: a copy, as `segops data use` makes it, of another folder."""
        data = load_params(root).data
        own = (root / data.path).resolve()
        if self.path.resolve() == own:
            yield Found(tracked.directory_md5(root, self.path), (("run",),))
            return
        with files.scratch(own.parent) as scratch:
            copy = scratch / own.name
            use_by_params(data, self.path, copy)
            if repr(last_change(self.path)) != state:
                yield None
                return
            md5 = tracked.directory_md5(root, copy)
            yield Found(md5, (("data", "use", str(copy)), ("run",)))


def last_change(directory: Path) -> float:
    """Return when anything below a directory changed last, in seconds since 1970.

    The time is the kernel's, since a copy may keep an older time of modification. It is now where
    a file goes meanwhile, such as one that an upload renames.
    """
    try:
        newest = directory.stat().st_ctime
        for name, _, _ in os.walk(directory):
            with os.scandir(name) as entries:
                for entry in entries:
                    newest = max(newest, entry.stat(follow_symlinks=False).st_ctime)
    except FileNotFoundError:
        return time.time()
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
                with faults.named():
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
    state = source.state(root)
    if state is None:
        log.info("%s still changes.", source.name)
        return 0
    noted = _noted(root).get(source.name)
    seen: dict[str, Any] = noted if isinstance(noted, dict) else {}
    if seen.get("state") == state and not _is_due(root, seen):
        return 0
    with source.opened(root, state) as found:
        if found is None:
            log.info("%s still changes.", source.name)
            return 0
        if seen.get("md5") != found.md5:
            seen = {"md5": found.md5, "attempts": 0}
        seen = {**seen, "state": state}
        _note(root, source, seen)
        return _run_due(root, source, found, seen) if _is_due(root, seen) else 0


def _is_due(root: Path, seen: dict[str, Any]) -> bool:
    """Whether data start a run."""
    is_over = seen.get("status") in DECIDED or seen["attempts"] >= ATTEMPTS
    return not is_over and champion_md5(root) != seen["md5"]


def _run_due(root: Path, source: Source, found: Found, seen: dict[str, Any]) -> int:
    attempts = seen["attempts"]
    _note(root, source, {**seen, "attempts": attempts + 1, "status": None})
    log.info("%s has new data (%s): a run starts.", source.name, found.md5)
    status = _run(root, source, found)
    _note(root, source, {**seen, "attempts": attempts + 1, "status": status})
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
        with ExitStack() as held:
            if command[0] != "run":  # which waits by itself
                held.enter_context(turn(root / paths.RUN_LOCK, "another run", log.info))
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


def _note(root: Path, source: Source, values: dict[str, Any]) -> None:
    files.write_json(root / WATCHED, {**_noted(root), source.name: values})
