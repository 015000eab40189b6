"""Chooses where a run works: in the workspace itself, or in a worktree of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segops import paths
from segops.operate import results, runs, worktree
from segops.operate.turns import turn
from segops.runtime.errors import SegopsError

FIXED = ("data.path", "gate", "registry", "validate")
"""What a run from outside may not override: what it may read, and what decides."""
FILES = {
    "model.start_from": "models:",
    "model.encoder_weights": "imagenet",
    "train.teacher": "models:",
}
"""Parameters that may name a file -> beginning of the values that name none."""


@dataclass(frozen=True)
class Wanted:
    """What a run is asked for.

    Attributes:
        isolated: Whether it works in a worktree of its own; None: if it is a deployment's.
        revision: The commit to run in a worktree; None: that of the checkout.
        overrides: Parameters to change in a worktree, by dotted key.
        wait: Whether to wait for another run of the workspace.
        deployed: Whether it was asked for from outside, as a run of a deployment.
    """

    isolated: bool | None = None
    revision: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    wait: bool = True
    deployed: bool = False


@dataclass(frozen=True)
class Place:
    """Where a run works.

    Attributes:
        root: The workspace.
        work: The worktree of the run; None: it works in place.
    """

    root: Path
    work: runs.Workplace | None = None

    @property
    def name(self) -> str | None:
        """The name of a run in a worktree."""
        return None if self.work is None else self.work.run.name

    def keep(self, model: str, version: str, verdict: str, *, unchanged: bool) -> None:
        """Keep the result of the run in git.

        A run in a worktree has it committed on its branch. A champion is tagged. What hinders is a
        warning: the verdict stands.
        """
        if self.work is not None:
            with results.as_warning("The result is not, or not wholly, kept in git"):
                self.work.keep(model, version, verdict, unchanged=unchanged)
        if verdict in ("promoted", "unchanged"):
            is_new = self.work is None and verdict == "promoted"
            results.mark(self.root, version, in_place=is_new)


@contextmanager
def chosen(
    workspace: Path, name: str, wanted: Wanted, say: Callable[[str], None]
) -> Iterator[Place]:
    """Provide the place of a run.

    A run in place holds the workspace's lock. One in a worktree does not, so that the workspace
    stays free; that of a deployment waits until no run is under way in the workspace.

    Args:
        workspace: The workspace.
        name: Name of the run.
        wanted: What it is asked for.
        say: Called with sentences about the place.

    Raises:
        SegopsError: The revision or the parameters are not usable, or another run is under way and
            `wanted.wait` is false.
    """
    if wanted.deployed:
        require_allowed(wanted.overrides)
    lock = workspace / paths.RUN_LOCK
    if not _is_isolated(wanted, workspace, say):
        with turn(lock, "another run", say, wait=wanted.wait):
            yield Place(workspace)
        return
    if wanted.deployed:
        with turn(lock, "another run", say, wait=wanted.wait):
            pass
    with runs.opened(workspace, name, wanted.revision or "HEAD", wanted.overrides, say) as work:
        yield Place(work.root, work)


def _is_isolated(wanted: Wanted, workspace: Path, say: Callable[[str], None]) -> bool:
    if wanted.isolated is not None:
        isolated = wanted.isolated
    elif wanted.deployed and worktree.head(workspace) is None:
        say("No commit of git is here: the run works in the workspace itself.")
        isolated = False
    else:
        isolated = wanted.deployed
    if not isolated and (wanted.revision is not None or wanted.overrides):
        raise SegopsError(
            "A revision and other parameters belong to a run in a worktree: `segops run "
            "--isolated`, or a deployment's run without `isolated: false`."
        )
    return isolated


def require_allowed(overrides: Mapping[str, Any]) -> None:
    """Refuse parameters that a run from outside may not change.

    Who may start runs must neither choose the files that are read nor weaken what decides.

    Raises:
        SegopsError: One of the parameters is of that kind.
    """
    for key, value in overrides.items():
        for fixed in (*FIXED, *FILES):
            is_below = key == fixed or key.startswith(f"{fixed}.")
            holds = fixed.startswith(f"{key}.")  # the whole section that holds it
            if holds or (is_below and not _names_no_file(fixed, value)):
                raise SegopsError(
                    f"overrides: {key}: a run of a deployment takes this from its commit. Commit "
                    "the change, or start the run by hand: `segops run --isolated --set "
                    f"{key}=…`."
                )


def _names_no_file(key: str, value: Any) -> bool:
    if key not in FILES or value is None:
        return key in FILES
    from segops.models.pretrained import is_file

    is_name = FILES[key] == "models:" or not is_file(str(value))
    return is_name and str(value).startswith(FILES[key])
