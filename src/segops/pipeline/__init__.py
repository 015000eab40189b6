"""Drives DVC: reads the stages of ``dvc.yaml`` and their state, and runs a stage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from segops import failure, faults, files, paths
from segops.runtime.errors import SegopsError, TransientError
from segops.stages import code

log = logging.getLogger("segops")
StageOutcome = Literal["ran", "restored", "unchanged"]

CODE = "code"
"""The stage that always runs; see :mod:`segops.stages.code`."""

BUSY = ("is busy", "Unable to acquire lock", "another process", "LockError")
"""Parts of DVC's messages when another process holds one of its locks."""

HINTS = (
    "To track the changes",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Having any troubles?",
)
"""Beginnings of DVC's lines of advice, which are not shown."""

UNQUOTED = "object has no attribute 'endswith'"
"""Part of DVC's message where a hash is a number; it names no file."""

NO_DRIVER = re.compile(r"(\w+) is supported, but requires '(dvc-[\w-]+)' to be installed")
"""DVC's message where the package for a kind of remote is missing."""


class DvcBusyError(TransientError):
    """Another DVC process holds a lock; the same call may succeed a moment later."""


class StageError(SegopsError):
    """A stage ended with an error; the message is its cause."""


@dataclass(frozen=True)
class StageState:
    """What a run would do with a stage.

    Attributes:
        name: The stage, as ``dvc.yaml`` names it.
        upstream: Names of the stages whose outputs it depends on.
        state: `perhaps` stale if an upstream stage may run; `busy` if another process holds it.
        why: What changed, or which upstream stages may run; empty if it is up to date.
    """

    name: str
    upstream: tuple[str, ...]
    state: Literal["up to date", "stale", "perhaps", "busy"]
    why: str


def environment() -> dict[str, str]:
    """Return the environment of child processes, with this Python's commands on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


def is_unchanged(root: Path, target: str) -> bool:
    """Whether dependencies, params and outputs of a stage or ``.dvc`` file are as DVC recorded.

    The stage ``code``, which DVC always runs, is unchanged if it would write the same files again.
    """
    with opened(root) as repository:
        if _changes(repository, root, target):
            return False
    return target != CODE or not _changed_code(root, code.contents(root))


def states(root: Path) -> list[StageState]:
    """Return what a run would do with each stage of ``dvc.yaml``, in topological order.

    A stage runs if an upstream stage runs and gives another result. The present code is compared,
    not the files that stage ``code`` wrote last. While a stage runs, DVC reports neither its state
    nor that of its neighbours.

    Raises:
        SegopsError: ``dvc.yaml`` or ``params.yaml`` is not usable for DVC.
    """
    from dvc.lock import LockError

    states: list[StageState] = []
    recorded, present = _recorded_code(root), code.contents(root)
    with opened(root) as repository:
        for name, upstream in _graph(repository, root):
            runs = {state.name for state in states if state.state in ("stale", "perhaps")} - {CODE}
            causes = [stage for stage in upstream if stage in runs]
            try:
                changes = _changes(repository, root, name, but=str(paths.code_of(name)))
            except LockError:
                states.append(StageState(name, upstream, "busy", "another process holds it"))
                continue
            if name == CODE:
                is_changed = _changed_code(root, present)
            else:
                is_changed = name in present and recorded.get(name) != _md5(present[name])
            if is_changed:
                changes = [*changes, "changed code"]
            if changes:
                states.append(StageState(name, upstream, "stale", ", ".join(changes)))
            elif causes:
                why = f"if {' or '.join(causes)} gives another result"
                states.append(StageState(name, upstream, "perhaps", why))
            else:
                states.append(StageState(name, upstream, "up to date", ""))
    return states


def _graph(repository: Any, root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each stage of the workspace and its upstream stages, in topological order."""
    import networkx

    graph = repository.index.graph
    own = {node for node in graph if Path(node.path) == root.absolute() / "dvc.yaml"}
    for node in reversed(list(networkx.topological_sort(graph))):
        if node in own and (name := getattr(node, "name", None)):
            yield name, tuple(sorted(up.name for up in graph[node] if up in own))


def _recorded_code(root: Path) -> dict[str, str]:
    """Return the MD5 of each stage's code at its last run, from ``dvc.lock``."""
    try:
        tree = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {
        stage: str(dependency.get("md5"))
        for stage, locked in tree.get("stages", {}).items()
        for dependency in locked.get("deps", ())
        if dependency.get("path") == str(paths.code_of(stage))
    }


def _md5(present: Mapping[str, Any]) -> str:
    return hashlib.md5(_written(present), usedforsecurity=False).hexdigest()


def _written(present: Mapping[str, Any]) -> bytes:
    """Return the bytes of the file that stage ``code`` would write for another stage now."""
    return files.json_text(present).encode()


def _changes(repository: Any, root: Path, target: str, but: str = "") -> list[str]:
    """Return DVC's list of changes of a stage or ``.dvc`` file, without those of the path `but`."""
    # Not by `repository.status`: it resolves targets against the working directory, and takes an
    # `@` in the path of a checkout for the end of the path.
    from dvc.repo import lock_repo

    file, name = (target, None) if target.endswith(".dvc") else ("dvc.yaml", target)
    stages = repository.stage.load_all(str(root / file), name)
    for stage in stages:
        for thing in (*stage.deps, *stage.outs):
            files.require_files(Path(thing.fs_path))
    with lock_repo(repository):
        found = [stage.status(check_updates=True) for stage in stages]
    entries = [entry for one in found for part in one.values() for entry in part]
    changes = [
        entry for entry in entries if not isinstance(entry, dict) and entry != "always changed"
    ]
    for entry in entries:
        for kind, things in entry.items() if isinstance(entry, dict) else ():
            if others := [str(thing) for thing in things if thing != but]:
                changes.append(f"{kind} {', '.join(others)}")
    return changes


def _changed_code(root: Path, present: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the stage ``code`` would write other files than the present ones."""
    written = {root / paths.code_of(stage): _written(now) for stage, now in present.items()}
    return any(not path.is_file() or path.read_bytes() != now for path, now in written.items())


def run_stage(
    root: Path, stage: str, on_line: Callable[[str], None], force: bool = False
) -> StageOutcome:
    """Bring a single stage up to date; the caller has run its upstream stages.

    `on_line` is called with every line that the stage or DVC prints; `force` runs the stage even
    when nothing changed.

    Returns:
        `ran`, `restored` (its outputs came from DVC's cache) or `unchanged`.

    Raises:
        DvcBusyError: Another DVC process holds a lock.
        StageError: The stage ended with an error. The message holds the cause, which `on_line` has
            not received where the stage knew it.
    """
    if not force and is_unchanged(root, stage):
        return "unchanged"
    command = ["repro", "--single-item", *(["--force"] if force else []), stage]
    with failure.expected(root) as place:

        def forward(line: str) -> None:
            if not (line.startswith(failure.DVC_FAILED) and place.exists()):
                on_line(line)

        status, lines = run_dvc(root, command, forward, {failure.PLACE: str(place)})
        text = "\n".join(lines)
        if status != 0:
            cause = failure.cause(stage, place, lines)
            if cause is None and any(sign in text for sign in BUSY):
                raise DvcBusyError(f"{stage}: {lines[-1].strip()}")
            raise StageError(cause or failure.without_cause(stage, lines))
    return "ran" if f"Running stage '{stage}'" in text else "restored"


@contextlib.contextmanager
def running_stage(root: Path, stage: str) -> Iterator[None]:
    """Lock the workspace for a stage of this process, and write its name for `segops status`.

    Raises:
        SegopsError: Another process runs a stage.
    """
    with files.exclusive(root / paths.STAGE_LOCK, "another stage"):
        content = {"stage": stage, "pid": os.getpid(), "created": psutil.Process().create_time()}
        files.write_json(root / paths.RUNNING, content)
        try:
            yield
        finally:
            (root / paths.RUNNING).unlink(missing_ok=True)


def running(root: Path) -> str | None:
    """Return the stage that a process runs in this workspace now, or None."""
    try:
        written = json.loads((root / paths.RUNNING).read_text(encoding="utf-8"))
        process = psutil.Process(written["pid"])
        is_same = process.create_time() == written["created"]  # the process id may be reused
        is_alive = process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return str(written["stage"]) if is_same and is_alive else None


def run_dvc(
    root: Path,
    arguments: list[str],
    on_line: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run DVC; its lines of advice are left out. See :func:`run_tied`.

    Raises:
        SegopsError: The package for a kind of remote is missing, or a hash in a file of DVC is a
            number.
    """

    def forward(text: str) -> None:
        if not text.startswith(HINTS):
            on_line(text)

    status, lines = run_tied(root, ["dvc", *arguments], forward, variables)
    if status != 0 and UNQUOTED in "\n".join(lines):
        with opened(root) as repository:
            _ = repository.index.stages  # says which file it is
    if status != 0 and (missing := NO_DRIVER.search("\n".join(lines))):
        module = missing[2].replace("-", "_")
        raise SegopsError(
            faults.without_package(module)
            if module in faults.TEAM
            else f"A DVC remote of the kind {missing[1]} needs `pip install {missing[2]}`."
        )
    return status, [line for line in lines if not line.startswith(HINTS)] or lines


def run_tied(
    root: Path,
    command: Sequence[str],
    on_line: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run a module in a separate process group that ends with this process.

    Args:
        root: The working directory.
        command: The module and its arguments.
        on_line: Called with every line that it prints and that is not empty.
        variables: Added to its environment.

    Returns:
        The exit status and the lines; at least one line.
    """
    tied, holding = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "segops.tied", str(tied), *command],
        cwd=root,
        env={**environment(), **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=[tied],
        start_new_session=True,
    )
    os.close(tied)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.rstrip():
                lines.append(text)
                on_line(text)
        return process.wait(), lines or [f"{' '.join(command)} said nothing"]
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        os.close(holding)


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Any]:
    """Yield a workspace's repository of DVC, locked where no other process holds the lock.

    Raises:
        DvcBusyError: Another DVC process holds a lock that the block needs.
        SegopsError: DVC cannot read the pipeline, or a file is not readable.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo

    try:
        with Repo(str(root)) as repository, contextlib.ExitStack() as held:
            with contextlib.suppress(LockError):  # a later call that needs the lock raises
                held.enter_context(lock_repo(repository))  # so that DVC reads the graph once
            yield repository
    except LockError as error:
        raise DvcBusyError(str(error)) from error
    except DvcException as error:
        raise SegopsError(f"{root}: DVC cannot read the pipeline: {error}") from error
    except OSError as error:
        raise SegopsError(f"{error.filename or root}: not readable: {error.strerror}.") from error
    except AttributeError as error:
        if (told := _unquoted(error)) is None:
            raise
        raise SegopsError(told) from error


def _unquoted(error: AttributeError) -> str | None:
    """Return what to tell of a file in which YAML takes a hash for a number; None: another error.

    DVC fails where it meets the hash, in a file of the workspace or of a commit.
    """
    from dvc.output import Output

    for frame, _ in traceback.walk_tb(error.__traceback__):
        output: Any = frame.f_locals.get("self")
        found = output.hash_info if isinstance(output, Output) else None
        if found and not isinstance(found.value, str):
            path, commit = output.stage.path, getattr(output.fs, "rev", None)
            file = f"{path.lstrip('/')} of commit {commit[:12]}" if commit else path
            return (
                f"{file}: {found.name} {found.value} of {output.def_path} is a number for YAML; "
                "write it in quotes."
            )
    return None
