"""SIGKILL between every two steps of a release, and before everything that a step writes.

The steps run in a fork of a process that has imported all of them, which takes a second instead of
ten. After each kill the whole release is repeated, as the next run does.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from tests.support import registry_workspace as made

STEPS = ("record", "register", "gate", "promote", "smoke test", "refresh of the comparison")
SAMPLES = 3
"""So many of the writes stand for all of them in the slow tier."""
PARTS = 12
"""Each part of the whole takes every twelfth write."""
WRITES = ("os.rename", "os.link", "os.remove", "shutil.copyfile")
"""Python's audit events of the writes to files that end whole or not at all."""


def steps(root: Path, is_tested: bool) -> Iterator[str]:
    """Release the workspace's model as the flow does; yield after each step.

    `is_tested`: with the smoke test, which starts a process that loads torch.
    """
    from segops.record.update import record
    from segops.release import champion_evaluation, promotion, register, smoke

    recorded = record(root)
    yield STEPS[0]
    register.register(root, recorded)
    yield STEPS[1]
    decision = promotion.gate(root)
    yield STEPS[2]
    promotion.promote(root, decision)
    yield STEPS[3]
    if not is_tested:
        return
    smoke.smoke(root)
    yield STEPS[4]
    champion_evaluation.refresh(root)
    yield STEPS[5]


def run(
    root: Path,
    is_tested: bool,
    kill_after: str | None,
    kill_before: int | None,
    answer: Connection,
) -> None:
    """Release in this process, which kills itself; else send the number of writes and the state."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    os.chdir(root)
    number, is_written = 0, False

    def write() -> None:
        nonlocal number
        if number == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        number += 1

    @event.listens_for(Engine, "before_cursor_execute")
    def statement(_c: object, _u: object, text: str, *_others: object) -> None:
        nonlocal is_written
        is_written |= text.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")

    @event.listens_for(Engine, "commit")
    def commit(_connection: object) -> None:
        nonlocal is_written
        if is_written:
            write()
        is_written = False

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in WRITES and str(root) in str(arguments[0]):
            write()

    sys.addaudithook(audit)
    for done in steps(root, is_tested):
        if done == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
    answer.send((number, state(root)))


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tests.faults.test_release_killed",
            "mlflow",
            "segops.release.promotion",
            "segops.release.smoke",
        ]
    )
    return context


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion and a better model that nothing has recorded; left as it is."""
    root = tmp_path_factory.mktemp("release") / "workspace"
    root.mkdir()
    made.make(root)
    made.release(root, seed=1, quality=0.6)
    made.train(root, seed=2, quality=0.9)
    made.keep_masks(root)
    root.rename(root.with_name("kept"))
    return root


@pytest.fixture
def root(prepared: Path) -> Iterator[Path]:
    """The prepared workspace, always in the place that its record names."""
    shutil.copytree(prepared.with_name("kept"), prepared, symlinks=True)
    yield prepared
    shutil.rmtree(prepared)


def release(
    forks: ForkServerContext,
    root: Path,
    is_tested: bool = True,
    kill_after: str | None = None,
    kill_before: int | None = None,
) -> tuple[int, int, dict[str, Any]]:
    """Release in a process of its own: its exit code, the number of its writes, what it leaves.

    MLflow would keep the database of a former workspace open in this process.
    """
    here, there = forks.Pipe(duplex=False)
    process = forks.Process(target=run, args=(root, is_tested, kill_after, kill_before, there))
    process.start()
    there.close()
    writes, left = -1, {}
    with suppress(EOFError):  # it was killed
        writes, left = here.recv()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, writes, left


def state(root: Path) -> dict[str, Any]:
    """What a release leaves, without times and identities."""
    found = made.snapshot(root)
    with made.ledger_of(root) as ledger:
        ledger.verify()
    return {
        "aliases": found["aliases"],
        "ledger": made.kinds(root),
        "versions": sorted(found["versions"]),
        "runs": sorted(one["status"] for one in found["runs"].values()),
        "artifacts": Counter(path.rpartition("/artifacts/")[2] for path in found["artifacts"]),
    }


@dataclass(frozen=True)
class Undisturbed:
    """A release that nothing disturbs.

    Attributes:
        writes: The number of writes before the smoke test.
        promoted: What it leaves before the smoke test.
        tested: What it leaves in the end.
    """

    writes: int
    promoted: dict[str, Any]
    tested: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, forks: ForkServerContext) -> Undisturbed:
    shutil.copytree(prepared.with_name("kept"), prepared, symlinks=True)
    code, writes, promoted = release(forks, prepared, is_tested=False)
    assert code == 0
    assert promoted["aliases"]["segops"]["champion"] == 2
    code, _, tested = release(forks, prepared)
    assert code == 0
    assert tested["ledger"][-1] == ("smoke", "passed", "2")
    shutil.rmtree(prepared)
    return Undisturbed(writes, promoted, tested)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(one, marks=pytest.mark.slow if one == "gate" else pytest.mark.long)
        for one in STEPS
    ],
)
def test_after_a_step(
    step: str, root: Path, forks: ForkServerContext, undisturbed: Undisturbed
) -> None:
    assert release(forks, root, kill_after=step)[0] == -signal.SIGKILL
    code, _, left = release(forks, root)
    assert (code, left) == (0, undisturbed.tested)


def disturbed(
    root: Path, forks: ForkServerContext, undisturbed: Undisturbed, number: int
) -> list[str]:
    """Kill before a write, release again, and say in what the result differs."""
    kept = root.with_name("kept")
    shutil.rmtree(root)
    shutil.copytree(kept, root, symlinks=True)
    code, _, _ = release(forks, root, is_tested=False, kill_before=number)
    again, _, found = release(forks, root, is_tested=False)
    if (code, again) != (-signal.SIGKILL, 0):
        return [f"write {number}: ended with {code}, then with {again}"]
    expected = undisturbed.promoted
    more, fewer = (
        one["artifacts"] - other["artifacts"]
        for one, other in ((found, expected), (expected, found))
    )
    wrong = [f"write {number}: artifacts more: {more}, fewer: {fewer}"] if more or fewer else []
    return wrong + [
        f"write {number}: {name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name != "artifacts" and found[name] != expected[name]
    ]


@pytest.mark.slow
def test_before_some_writes(root: Path, forks: ForkServerContext, undisturbed: Undisturbed) -> None:
    writes = undisturbed.writes
    assert writes > 20
    chosen = [round(one * (writes - 1) / (SAMPLES - 1)) for one in range(SAMPLES)]
    wrong: list[str] = []
    for number in chosen:
        wrong += disturbed(root, forks, undisturbed, number)
    assert wrong == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_before_every_write(
    part: int, root: Path, forks: ForkServerContext, undisturbed: Undisturbed
) -> None:
    wrong: list[str] = []
    for number in range(part, undisturbed.writes, PARTS):
        wrong += disturbed(root, forks, undisturbed, number)
    assert wrong == []
