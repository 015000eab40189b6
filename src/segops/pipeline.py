"""Drives DVC: reads the stages of ``dvc.yaml`` and their state, runs a stage, tracks the data."""

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from segops import code, failure, faults, files, paths
from segops.runtime.errors import SegopsError, TransientError

log = logging.getLogger("segops")
StageOutcome = Literal["ran", "restored", "unchanged"]

CODE = "code"
"""The stage that always runs; see :mod:`segops.code`."""

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
    with _repository(root) as repository:
        if _changes(repository, root, target):
            return False
    return target != CODE or not _changed_code(root, code.stage_codes())


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
    recorded, present = _recorded_code(root), code.stage_codes()
    with _repository(root) as repository:
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


def _md5(present: code.StageCode) -> str:
    return hashlib.md5(_written(present), usedforsecurity=False).hexdigest()


def _written(present: code.StageCode) -> bytes:
    """Return the content of the file that stage ``code`` would write for another stage now."""
    return files.json_text(present.to_json()).encode()


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


def _changed_code(root: Path, present: Mapping[str, code.StageCode]) -> bool:
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

        status, lines = _dvc(root, command, forward, {failure.PLACE: str(place)})
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


def sync_data(root: Path, data: Path, on_line: Callable[[str], None]) -> None:
    """Make the data directory, relative to `root`, and its ``.dvc`` file agree without losing data.

    Missing data are pulled. If the ``.dvc`` file changed (as by `git pull`), its data are checked
    out. Content that is not in DVC's cache is new data and is tracked. `on_line` is called with
    every line that DVC prints.

    Raises:
        SegopsError: The data are neither in the workspace nor in a remote.
    """
    require_no_link(root, data)
    pointer = _pointer(data)
    if not (root / pointer).is_file():
        if not (root / data).is_dir():
            raise SegopsError(
                f"{data}: no such directory. `segops data use PATH` puts a data set there, "
                "`segops data fetch voc2012` gets PASCAL VOC, "
                "or set data.path in params.yaml to where it lies."
            )
        track_data(root, data, on_line)
        return
    if is_unchanged(root, str(pointer)):
        return
    status, lines = _dvc(root, ["checkout", str(pointer)], log.debug)
    if status != 0 and not _unsaved(lines):
        status, lines = _dvc(root, ["pull", str(pointer)], on_line)
    if status == 0:
        return
    if not _unsaved(lines):
        raise SegopsError(
            f"{data}: no such directory, and no remote provides it: {lines[-1].strip()}. "
            "`segops data use PATH` or `segops data fetch voc2012` puts data there."
        )
    on_line(f"{data} holds new content: it is tracked with DVC.")
    track_data(root, data, on_line)


def require_no_link(root: Path, data: Path) -> None:
    """Refuse a data directory that is a link, or lies behind one.

    Raises:
        SegopsError: It is, and DVC would refuse to track it.
    """
    for path in (data, *data.parents):
        if (root / path).is_symlink():
            raise SegopsError(
                f"{path}: a link to {(root / path).readlink()}; DVC tracks no directory behind a "
                "link. Remove the link; `segops data use PATH` then copies the files to "
                f"{data}, where the file system can without taking their space again."
            )


def _pointer(data: Path) -> Path:
    return data.with_name(f"{data.name}.dvc")


def _unsaved(lines: list[str]) -> bool:
    """Whether DVC refused because the directory has content that is not in its cache."""
    return any("unsaved files" in line for line in lines)


def require_tracked(root: Path, data: Path) -> None:
    """Raise if the data directory has content that DVC does not track and that would be lost.

    Raises:
        SegopsError: It holds content that is not tracked.
    """
    pointer = _pointer(data)
    if not (root / data).exists():
        return
    if not (root / pointer).is_file() or not is_unchanged(root, str(pointer)):
        raise SegopsError(
            f"{data}: holds content that DVC does not track and that would be lost. "
            f"`dvc add {data}` tracks it; or move it away."
        )


def track_data(root: Path, data: Path, on_line: Callable[[str], None]) -> str:
    """Track the data directory with DVC, and return the MD5 that DVC gives it.

    The shipped sample comes from a remote inside the repository. Other data must never be pushed
    there, so the remote's name is removed from the ``.dvc`` file.

    Raises:
        SegopsError: DVC refuses.
    """
    pointer = root / _pointer(data)
    if pointer.is_file():
        tree = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        for output in tree["outs"]:
            output.pop("remote", None)
            output.pop("push", None)
        pointer.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    files.require_files(root / data)
    status, lines = _dvc(root, ["add", str(data)], on_line)
    if status != 0:
        raise SegopsError(f"{data}: DVC cannot track it: {lines[-1].strip()}")
    tracked: str = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
    return tracked


def directory_md5(root: Path, directory: Path) -> str:
    """Return the MD5 that DVC would give a directory; nothing is tracked.

    Raises:
        SegopsError: It holds what is no file, or is not readable.
    """
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build

    files.require_files(directory)
    with _repository(root) as repository:
        _, _, tree = build(
            repository.cache.local,
            str(directory.resolve()),
            localfs,
            "md5",
            dry_run=True,
            ignore=repository.dvcignore,
        )
        return str(tree.hash_info.value)


def cache_of(root: Path, *, is_legacy: bool = False) -> Callable[[str], Path]:
    """Return what tells where DVC's cache keeps, or would keep, the file of an MD5.

    `is_legacy`: that of DVC before 3.0, whose ``.dvc`` files name no hash.
    """
    with _repository(root) as repository:
        cache = repository.cache.legacy if is_legacy else repository.cache.local
        return lambda digest: Path(cache.oid_to_path(digest))


def share(root: Path, tree: Path, top: Path) -> None:
    """Let a worktree use DVC's cache, remotes and credentials of a checkout.

    No lock of the checkout's DVC is taken.

    Args:
        root: A workspace of the checkout.
        tree: The worktree.
        top: The root of the checkout.

    Raises:
        SegopsError: The checkout or the worktree is no repository of DVC.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repository:
            directory = tree / Path(repository.root_dir).relative_to(top) / Repo.DVC_DIR
            local = repository.config.load_one("local")
            local["cache"]["dir"] = str(repository.cache.local_cache_dir)
        # DVC's files for this worktree alone go when it goes.
        local["core"]["site_cache_dir"] = str(directory / "tmp" / "site")
        if not directory.is_dir():
            raise SegopsError(f"{directory}: no such directory. `dvc init`, and commit .dvc.")
        (directory / Config.CONFIG_LOCAL).touch(mode=0o600)  # it may hold credentials
        with Config(str(directory)).edit("local") as written:
            written.update(local)
    except DvcException as error:
        raise SegopsError(f"{root}: DVC cannot read its configuration: {error}") from error


@contextlib.contextmanager
def unused_objects(
    root: Path,
    worktrees: Sequence[Path],
    kept: Collection[str],
    commits: Sequence[str] | None = None,
) -> Iterator[list[Path]]:
    """Yield the files of DVC's cache that nothing uses; no DVC process adds any in the block.

    Used is what the workspace, a worktree, a branch, a tag or an experiment names.

    Args:
        root: The main checkout.
        worktrees: Its git worktrees.
        kept: MD5 of further files to keep, as DVC writes it.
        commits: The tips of the branches that count; None: of all branches.

    Raises:
        DvcBusyError: Another DVC process holds a lock.
        SegopsError: DVC cannot read a branch, a tag or a worktree.
    """
    from dvc.repo import Repo, lock_repo

    with _repository(root) as repository, contextlib.ExitStack() as held:
        others = [held.enter_context(Repo(str(one))) for one in worktrees]
        for one in (repository, *others):
            held.enter_context(lock_repo(one))
        # DVC warns of each output of a branch that never ran.
        held.callback(logging.getLogger("dvc").setLevel, logging.getLogger("dvc").level)
        logging.getLogger("dvc").setLevel(logging.ERROR)
        branches = {"all_branches": True} if commits is None else {"revs": list(commits)}
        everywhere = {**branches, "all_tags": True, "all_experiments": True}
        found = [repository.used_objs(force=True, **everywhere)]
        found += [one.used_objs(force=True) for one in others]
        used = {one.value for each in found for part in each.values() for one in part}
        cache = repository.cache.local
        used |= set(kept)
        yield [Path(cache.oid_to_path(one)) for one in cache.all() if one not in used]


def _dvc(
    root: Path,
    arguments: list[str],
    on_line: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run DVC in a separate process group that ends with this process."""

    def forward(text: str) -> None:
        if not text.startswith(HINTS):
            on_line(text)

    status, lines = run_tied(root, ["dvc", *arguments], forward, variables)
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
def _repository(root: Path) -> Iterator[Any]:
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
