"""The ledger grows, tells when it was changed, and tells the history of a model."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from segops.release import releases
from segops.release.ledger import GENESIS, Entry, Ledger, read
from segops.runtime.errors import SegopsError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "local", "segops")


def decide(ledger: Ledger, version: str = "1", **details: Any) -> Entry:
    return ledger.append(
        "decision", verdict="rejected", reason="why", by="me", version=version, details=details
    )


def move(ledger: Ledger, verdict: str, version: str, done: bool = True, **details: Any) -> Entry:
    intent = ledger.append(
        "intent", verdict=verdict, reason="why", by="me", version=version, details=details
    )
    if done:
        ledger.append(
            "done", verdict=verdict, reason="why", by="me", details={"intent": intent.sequence}
        )
    return intent


def promote(ledger: Ledger, version: str, **differences: float) -> Entry:
    return move(ledger, "promote", version, bundle_digest=f"d{version}", differences=differences)


def test_an_absent_ledger_is_empty(ledger: Ledger) -> None:
    assert ledger.entries() == []


def test_entries_come_back_in_order_and_chained(ledger: Ledger) -> None:
    written = [decide(ledger, str(number)) for number in range(3)]
    assert ledger.entries() == written
    assert [entry.sequence for entry in written] == [1, 2, 3]
    assert written[0].previous == GENESIS
    assert len({entry.previous for entry in written}) == 3


def test_numbers_that_are_not_finite_become_null(ledger: Ledger) -> None:
    entry = decide(ledger, low=math.nan, deep={"list": [math.inf, 0.5]})
    assert entry.details == {"low": None, "deep": {"list": [None, 0.5]}}
    assert ledger.entries() == [entry]


def test_other_models_and_registries_share_the_file_and_not_the_view(tmp_path: Path) -> None:
    ours, other = Ledger(tmp_path, "local", "a"), Ledger(tmp_path, "local", "b")
    remote = Ledger(tmp_path, "http://tracking:5000", "a")
    for one in (ours, other, remote, ours):
        decide(one)
    assert [entry.sequence for entry in ours.entries()] == [1, 4]
    assert [entry.sequence for entry in remote.entries()] == [3]
    assert len(read(ours.path)) == 4


def changed(lines: list[str], number: int) -> list[str]:
    tree = json.loads(lines[number])
    tree["reason"] = "a better reason"
    return [*lines[:number], json.dumps(tree, separators=(",", ":")), *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: changed(lines, 1), 3),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:3], "{}"], 4),
        (lambda lines: ["", *lines], 1),
    ],
    ids=["changed", "removed", "inserted", "swapped", "beheaded", "replaced", "blank"],
)
def test_tampering_shows_and_names_the_line(ledger: Ledger, tamper: Any, line: int) -> None:
    for number in range(4):
        decide(ledger, str(number))
    lines = ledger.path.read_text(encoding="utf-8").splitlines()
    ledger.path.write_text("\n".join(tamper(lines)) + "\n", encoding="utf-8")
    with pytest.raises(SegopsError, match=f"line {line} "):
        ledger.entries()
    with pytest.raises(SegopsError, match=f"line {line} "):
        decide(ledger)


def test_a_line_that_a_crash_cut_off_never_counted(ledger: Ledger) -> None:
    first = decide(ledger)
    with ledger.path.open("ab") as file:
        file.write(b'{"sequence":2,"previous":"')
    assert ledger.entries() == [first]
    second = decide(ledger)
    assert second.sequence == 2
    assert ledger.entries() == [first, second]


def _append_ten(root: Path) -> None:
    for _ in range(10):
        decide(Ledger(root, "local", "segops"))


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_ten, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = Ledger(tmp_path, "local", "segops").entries()
    assert [entry.sequence for entry in entries] == list(range(1, 31))


# What the ledger tells.


def test_champions_follow_promotions_and_rollbacks(ledger: Ledger) -> None:
    for version in ("1", "2", "3"):
        promote(ledger, version)
    told = releases.read(ledger.entries())
    assert told.champions == ("1", "2", "3")
    assert told.champion == "3"
    assert told.before("3") == "2"
    assert told.before("1") is None
    move(ledger, "rollback", "3")
    told = releases.read(ledger.entries())
    assert told.champions == ("1", "2")
    assert told.withdrawn == {"3": "why"}


def test_a_version_that_was_champion_twice_is_not_its_own_predecessor(ledger: Ledger) -> None:
    for version in ("1", "2", "1"):
        promote(ledger, version)
    told = releases.read(ledger.entries())
    assert told.before("1") == "2"
    move(ledger, "rollback", "1")
    assert releases.read(ledger.entries()).champions == ("2",)


def test_what_was_begun_and_not_done_is_pending_and_no_release(ledger: Ledger) -> None:
    promote(ledger, "1")
    intent = move(ledger, "promote", "2", done=False, bundle_digest="d2", differences={})
    told = releases.read(ledger.entries())
    assert told.champion == "1"
    assert told.pending == intent
    ledger.append(
        "abandoned", verdict="promote", reason="", by="", details={"intent": intent.sequence}
    )
    told = releases.read(ledger.entries())
    assert told.pending is None
    assert told.champion == "1"


def best(ledger: Ledger) -> list[str]:
    return [release.version for release in releases.read(ledger.entries()).best]


def test_the_best_release_does_not_sink_with_its_successors(ledger: Ledger) -> None:
    promote(ledger, "1")
    promote(ledger, "2", d1=-0.01)
    assert best(ledger) == ["1"]
    promote(ledger, "3", d2=0.005, d1=-0.005)
    assert best(ledger) == ["1"]
    promote(ledger, "4", d3=0.02, d1=0.015)
    assert best(ledger) == ["4"]


def test_a_withdrawn_release_counts_for_nothing(ledger: Ledger) -> None:
    promote(ledger, "1")
    promote(ledger, "2", d1=0.1)
    assert best(ledger) == ["2"]
    move(ledger, "rollback", "2")
    assert best(ledger) == ["1"]


def test_a_release_that_was_never_compared_keeps_its_place(ledger: Ledger) -> None:
    """An alias set by hand: nobody knows which is better, so both must be held against."""
    promote(ledger, "1")
    ledger.append(
        "observed",
        verdict="observed",
        reason="",
        by="",
        version="7",
        details={"bundle_digest": "d7"},
    )
    assert best(ledger) == ["1", "7"]
    promote(ledger, "8", d1=0.1, d7=-0.01)
    assert best(ledger) == ["7"]
