"""What lies in a checkout and no release needs: old logs, worktrees that were kept, copies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from segops import paths
from segops.operate import runs, worktree
from segops.operate.space import Space, taken
from segops.params.file import Params, load_params
from segops.predict.log import own_files
from segops.record import moved
from segops.runtime.errors import SegopsError

Kind = Literal[
    "record",
    "record on the server",
    "DVC's cache",
    "worktree",
    "copy of the database",
    "prediction log",
    "branch of a run",
]
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Piece:
    """A thing that can go.

    Attributes:
        kind: Where it lies.
        name: What people call it.
        time: When it was made, in seconds since 1970.
        space: The space of its files.
        remove: Removes it; it returns False where something has named it since it was found.
        versions: Names of the versions that go with it.
    """

    kind: Kind
    name: str
    time: float
    space: Space
    remove: Callable[[], object] = field(compare=False, repr=False)
    versions: tuple[str, ...] = ()

    @property
    def is_on_server(self) -> bool:
        """Whether its space is a server's."""
        return self.kind == "record on the server"


def copies(home: Path) -> Iterator[Piece]:
    """Yield the copies of the database as it was before its checkout was moved."""
    for path in home.glob(f"{moved.DATABASE}-in-*"):
        made = path.stat().st_mtime
        yield Piece("copy of the database", path.name, made, taken(path), path.unlink)


def reproductions(home: Path) -> Iterator[Piece]:
    """Yield the worktrees that reproductions kept."""
    for folder in (home / paths.STATE).glob("reproduce-*"):
        if folder.is_dir():
            yield Piece(
                "worktree", folder.name, folder.stat().st_mtime, taken(folder),
                partial(worktree.remove, home, folder),
            )  # fmt: skip


def ended_runs(home: Path) -> Iterator[Piece]:
    """Yield the worktrees of runs that ended and were kept; their branches stay."""
    for run in runs.every(home):
        if run.state != "running":
            folder = runs.home_of(home) / run.name
            yield Piece(
                "worktree", f"run {run.name}", folder.stat().st_mtime, taken(folder),
                partial(runs.clean, home, run.name),
            )  # fmt: skip


def logs(home: Path, logged: Iterable[Path]) -> Iterator[Piece]:
    """Yield the files of prediction logs, each as old as its last line."""
    for path in logged:
        try:
            made = path.stat().st_mtime
        except FileNotFoundError:  # another checkout removed it
            continue
        name = str(path.relative_to(home) if path.is_relative_to(home) else path)
        yield Piece("prediction log", name, made, taken(path), path.unlink)


def log_files(every_params: Iterable[tuple[Path, Params]]) -> list[Path]:
    """Return the files of the prediction logs that `monitor.path` of the workspaces names."""
    return sorted(
        {
            file
            for workspace, params in every_params
            if params.monitor.path is not None
            for file in own_files(workspace / params.monitor.path)
        }
    )


def params_of_workspaces(home: Path) -> Iterator[tuple[Path, Params]]:
    """Yield each workspace with its parameters; say which are not valid, and leave them out."""
    for workspace in worktree.workspaces(home):
        try:
            yield workspace, load_params(workspace)
        except SegopsError as error:
            log.warning("The parameters of a workspace are left out: %s", error)
