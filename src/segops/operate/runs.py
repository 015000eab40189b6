"""Runs in worktrees of their own, below ``.segops/runs`` of the main checkout.

The stages run the code of the worktree's commit, in child processes. What changes shared state
(record, register, gate, promote) is run by the present segops, in this process: an earlier
revision's gate must not decide, and the registry must not be written by code that does not know its
present form. So a run is the same flow with another workspace, and no second process reports to
Prefect.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segops import edit, faults, files, paths, pipeline
from segops.operate import results, worktree
from segops.operate.turns import turn
from segops.params.file import load_params
from segops.pipeline import cache
from segops.record import started
from segops.record.lineage import started_by
from segops.runtime.errors import SegopsError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
RECORD, LOG, TREE = "run.json", "log.txt", "worktree"
LOGGERS = ("segops", "prefect")
BRANCHES = "refs/heads/runs"
KEPT = 5
"""Worktrees of runs that did not finish; older ones go at the start of the next run."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Run:
    """A run in a worktree of its own, as its file tells it.

    Attributes:
        name: Its name, and that of its branch below ``runs/``.
        revision: The revision asked for.
        commit: Its commit.
        started: When it began, in ISO 8601.
        started_by: Who or what started it.
        overrides: Parameters that differ from the commit's, by dotted key.
        state: `running`, `finished`, `failed` or `stopped` as written; :func:`every` also finds
            `killed`.
        ended: When it ended; empty before.
        model: Name of the registered model; empty where there is no version.
        version: Its version.
        verdict: The verdict of the gate.
        result: The commit of its result.
        message: Why it failed.
    """

    name: str
    revision: str
    commit: str
    started: str
    started_by: str
    overrides: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    ended: str = ""
    model: str = ""
    version: str = ""
    verdict: str = ""
    result: str = ""
    message: str = ""


class Workplace:
    """The worktree of a run under way.

    Attributes:
        root: The workspace in it.
        run: What is known of the run.
    """

    def __init__(self, folder: Path, root: Path, run: Run) -> None:
        self.root = root
        self.run = run
        self._folder = folder
        self.write()

    def write(self, **known: Any) -> None:
        """Write the run's file, with what is known in addition."""
        self.run = replace(self.run, **known)
        files.write_json(self._folder / RECORD, asdict(self.run))

    def keep(self, model: str, version: str, verdict: str, *, unchanged: bool) -> None:
        """Commit the result on the run's branch, unless nothing changed; write down the verdict.

        Raises:
            SegopsError: Git or MLflow refuses.
        """
        self.write(model=model, version=version, verdict=verdict, started_by=started_by())
        if unchanged:
            return
        message = results.message(self.run.name, model, version, verdict)
        result = results.commit(self.root, self.run.commit, message)
        if not worktree.set_ref(self.root, results.branch_of(self.run.name), result):
            raise SegopsError(
                f"The branch runs/{self.run.name} exists and holds another result; the result of "
                f"this run is commit {result}. `git branch NAME {result}` keeps it."
            )
        self.write(result=result)
        results.note(self.root, version, result)


def home_of(root: Path) -> Path:
    """Return the directory of all runs of a workspace's repository."""
    return paths.state_home(root) / paths.RUNS


def require_name(root: Path, name: str) -> None:
    """Require that a name can be that of a new run.

    Raises:
        SegopsError: It has other characters than git and file systems like, or is taken.
    """
    if not NAME.fullmatch(name):
        raise SegopsError(
            f"--name {name!r}: expected up to 60 letters, digits, hyphens and underscores, the "
            "first of them a letter or a digit."
        )
    _require_branches(root)
    if not _is_free(root, name):
        raise SegopsError(
            f"--name {name}: a run or a branch runs/{name} of this name exists. Choose another "
            f"name, or remove them: `segops runs clean {name}`, `git branch -D runs/{name}`."
        )


def _require_branches(root: Path) -> None:
    if BRANCHES in worktree.git(root, "for-each-ref", "--format=%(refname)", BRANCHES).split():
        raise SegopsError(
            "The branch `runs` exists, and beside it git takes no branch runs/NAME for the result "
            "of a run. Give it another name: `git branch -m runs NAME`."
        )


def _is_free(root: Path, name: str) -> bool:
    return not (home_of(root) / name).exists() and not worktree.has_ref(
        root, results.branch_of(name)
    )


@contextmanager
def opened(
    root: Path,
    name: str,
    revision: str,
    overrides: Mapping[str, Any],
    say: Callable[[str], None],
) -> Iterator[Workplace]:
    """Make the worktree of a run; remove it at the end, or keep it on failure.

    Args:
        root: The workspace to run; only its committed files count.
        name: Name of the run. Other characters become hyphens; a number makes it unique.
        revision: The commit to run, as git takes it.
        overrides: Parameters to change, by dotted key.
        say: Called with the sentences about the worktree.

    Raises:
        SegopsError: There is no such commit, it holds no DVC workspace, or the parameters
            are not usable; nothing is left. Or an error of the block, which then names the
            worktree that is kept.
    """
    commit = worktree.commit_of(root, revision)
    _require_branches(root)
    home = paths.state_home(root)
    with ExitStack() as held:
        with turn(home / paths.RUNS / ".lock", "the start or the removal of a run", say):
            _remove_older(root, home)
            name = _free_name(root, name)
            folder = home / paths.RUNS / name
            folder.mkdir(parents=True)
            held.enter_context(files.exclusive(folder / "lock", "this run"))
        try:
            tree = folder / TREE
            _prepare(root, home, tree, commit, overrides)
        except BaseException:
            worktree.put_away(home, folder)
            raise
        run = Run(name, revision, commit, _now(), started_by(), dict(overrides))
        work = Workplace(folder, tree / worktree.place(root), run)
        _tell(root, work, say)
        held.enter_context(_logging(folder / LOG))
        with results.as_warning("No interrupted training is continued"):
            _take_over(root, work, say)
        try:
            with faults.named(), _code_of(tree):
                yield work
        except SegopsError as error:
            with results.as_warning(f"The end of run {name} is not written down"):
                work.write(state="failed", ended=_now(), message=str(error))
                with (folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(f"{_now()} ERROR {error}\n")
            raise SegopsError(
                f"{error}\nThe worktree of run {name} is kept in {tree}; `segops runs clean "
                f"{name}` removes it."
            ) from error
        except BaseException as error:
            work.write(state="stopped", ended=_now(), message=type(error).__name__)
            raise
        with results.as_warning(f"The end of run {name} is not written down"):
            work.write(state="finished", ended=_now())
        worktree.put_away(home, tree)


def _prepare(root: Path, home: Path, tree: Path, commit: str, overrides: Mapping[str, Any]) -> None:
    for needed in ("dvc.yaml", "params.yaml"):
        if not worktree.has(root, commit, needed):
            raise SegopsError(f"Commit {commit[:12]} holds no {needed}. Commit it, or run another.")
    ignored = home / paths.RUNS / ".gitignore"
    if not ignored.is_file():
        files.write_text(ignored, "*\n")
    worktree.add(home, tree, commit)
    cache.share(root, tree, worktree.top(root))
    inner = tree / worktree.place(root)
    if overrides:
        edit.plan(inner, overrides, "the run's parameters").write()
    data = load_params(inner).data.path
    if not (inner / f"{data}.dvc").is_file():
        raise SegopsError(
            f"{data}.dvc: not in commit {commit[:12]}, and a run in a worktree has only what is "
            f"committed. {_added(data)} put it there."
        )


def _tell(root: Path, work: Workplace, say: Callable[[str], None]) -> None:
    run = work.run
    say(f"Run {run.name}: commit {run.commit[:12]} in {work.root}.")
    data = load_params(work.root).data.path
    read = ("params.yaml", "dvc.yaml", f"{data}.dvc", "src")
    if changed := worktree.uncommitted(root, *read):
        say(f"Not in this run, because not committed: the changes of {', '.join(changed)}.")
    if _is_untracked(root, data):
        say(
            f"Not in this run: content of {data} that DVC does not track. {_added(data)} bring it "
            "in."
        )


def _added(data: str) -> str:
    """Return the commands that bring data into a commit."""
    directory, pointer = shlex.quote(data), shlex.quote(f"{data}.dvc")
    return f"`dvc add {directory}`, `git add {pointer}` and `git commit`"


def _is_untracked(root: Path, data: str) -> bool:
    if not ((root / data).is_dir() and (root / f"{data}.dvc").is_file()):
        return False
    try:
        return not pipeline.is_unchanged(root, f"{data}.dvc")
    except Exception as error:  # DVC has many, as while a stage of the checkout runs
        log.debug("%s: DVC cannot tell whether it is tracked: %s", data, error)
        return False


def _take_over(root: Path, work: Workplace, say: Callable[[str], None]) -> None:
    """Move the state of a training that was interrupted in the newest run of the same here.

    The training itself compares what it was of, and begins anew where that differs.
    """
    run = work.run
    for old in every(root):
        if old.state in ("running", "finished"):
            continue
        inner = home_of(root) / old.name / TREE / worktree.place(root)
        is_same = (old.commit, old.overrides) == (run.commit, run.overrides)
        if is_same and (inner / paths.RESUME).is_dir() and pipeline.running(inner) is None:
            (work.root / paths.STATE).mkdir(exist_ok=True)
            (inner / paths.RESUME).rename(work.root / paths.RESUME)
            for path in (paths.HISTORY, started.FILE, started.PATCH):
                if (inner / path).is_file():
                    (inner / path).rename(work.root / path)
            say(f"The training that run {old.name} began is continued.")
            return


def _remove_older(root: Path, home: Path) -> None:
    """Remove the oldest worktrees of runs that have ended; their records and logs stay."""
    ended = [run.name for run in every(root) if run.state != "running"]
    trees = [home / paths.RUNS / name / TREE for name in ended]
    for tree in [one for one in trees if one.is_dir()][KEPT:]:
        worktree.put_away(home, tree)


def _free_name(root: Path, name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:50] or "run"
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, 10_000))
    return next(one for one in names if _is_free(root, one))


@contextmanager
def _code_of(tree: Path) -> Iterator[None]:
    """Let child processes import the worktree's segops, where the repository holds one."""
    before = os.environ.get("PYTHONPATH")
    if (tree / "src" / "segops").is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join([str(tree / "src"), *filter(None, [before])])
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for one in loggers:
        one.addHandler(handler)
    try:
        yield
    finally:
        for one in loggers:
            one.removeHandler(handler)
        handler.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def every(root: Path) -> list[Run]:
    """Return all runs that are not cleaned, the newest first.

    A run whose process was killed has the state `killed`.
    """
    found = [_read(path) for path in home_of(root).glob(f"*/{RECORD}")]
    return sorted(filter(None, found), key=lambda run: run.started, reverse=True)


def _read(path: Path) -> Run | None:
    try:
        is_under_way = files.is_held(
            path.with_name("lock")
        )  # before the state, which is written in it
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: not readable (%s); its run is left out.", path, error)
        return None
    run = replace(run, name=path.parent.name)
    return replace(run, state="killed") if run.state == "running" and not is_under_way else run


def find(root: Path, name: str) -> tuple[Run, Path]:
    """Return a run by its name, and its directory.

    Raises:
        SegopsError: There is no such run.
    """
    folder = home_of(root) / name
    run = _read(folder / RECORD) if NAME.fullmatch(name) else None
    if run is None:
        raise SegopsError(f"{name}: no such run. `segops runs list` lists them.")
    return run, folder


def clean(root: Path, name: str | None = None) -> list[str]:
    """Remove the directory of a run that has ended, or of all; the branches stay.

    Returns:
        The names of the runs removed.

    Raises:
        SegopsError: There is no such run, or it is under way; nothing is removed.
    """
    home = paths.state_home(root)
    runs = home / paths.RUNS
    if name is not None and not (NAME.fullmatch(name) and (runs / name).is_dir()):
        raise SegopsError(f"{name}: no such run. `segops runs list` lists them.")
    folders = [runs / name] if name is not None else sorted(runs.glob("[!.]*"))
    removed = []
    with turn(runs / ".lock", "the start or the removal of a run", log.info):
        for folder in folders:
            if not files.is_held(folder / "lock"):
                worktree.remove(home, folder)
                removed.append(folder.name)
            elif name is not None:
                raise SegopsError(f"{name}: this run is under way. Stop it, or wait for its end.")
    return removed
