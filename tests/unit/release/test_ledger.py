"""The ledger grows in the registry, tells when it was changed, and tells the history of a model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from segops import files
from segops.release import releases
from segops.release.chain import GENESIS, Entry, TamperedError, to_line
from segops.release.earlier_ledger import TAKEN_OVER, not_taken_over, take_over
from segops.release.ledger import ENTRY, HEAD, Ledger, MovedError
from segops.runtime.errors import SegopsError

NAME = "segops-ledger"


def decide(ledger: Ledger, version: str = "1", again: bool = False, **details: Any) -> Entry:
    return ledger.append(
        "decision",
        verdict="rejected",
        reason="why",
        by="me",
        version=version,
        details=details,
        again=again,
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


def told(ledger: Ledger) -> releases.Releases:
    return releases.read(ledger.entries())


def test_a_ledger_that_nobody_wrote_to_is_empty(ledger: Ledger, client: MlflowClient) -> None:
    assert ledger.entries() == []
    assert [model.name for model in client.search_registered_models()] == ["segops"]
    assert not ledger.copy.exists()


def test_entries_come_back_in_order_and_chained(
    ledger: Ledger, client: MlflowClient, opened: Callable[[Path], Ledger], tmp_path: Path
) -> None:
    written = [decide(ledger, str(number)) for number in range(3)]
    assert ledger.entries() == written
    assert opened(tmp_path / "other").entries() == written
    assert [entry.sequence for entry in written] == [1, 2, 3]
    assert written[0].previous == GENESIS
    assert written[1].previous == files.sha256_bytes(to_line(written[0]))
    assert len(ledger.verify().entries) == 3
    shown = client.get_model_version(NAME, "3").description
    assert shown == "decision: rejected, version 2"


def test_numbers_that_are_not_finite_become_null(ledger: Ledger) -> None:
    entry = decide(ledger, low=math.nan, deep={"list": [math.inf, 0.5]})
    assert entry.details == {"low": None, "deep": {"list": [None, 0.5]}}
    assert ledger.entries() == [entry]


def test_of_two_writers_one_wins_and_the_other_sees_its_entry(
    ledger: Ledger, opened: Callable[[Path], Ledger], tmp_path: Path
) -> None:
    other = opened(tmp_path / "other")
    assert ledger.entries() == other.entries() == []
    first = decide(ledger, "1")
    with pytest.raises(MovedError, match=r"me wrote entry 1 meanwhile \(rejected of version 1\)"):
        decide(other, "2")
    assert other.entries() == [first], "the void entry is skipped"
    second = decide(other, "2")
    third = decide(ledger, "3", again=True)
    for reader in (ledger, other, opened(tmp_path / "third")):
        assert reader.entries() == [first, second, third]
    assert third.sequence == 3


# Tampering.


def delete_last(client: MlflowClient) -> None:
    client.delete_model_version(NAME, "4")


def delete_middle(client: MlflowClient) -> None:
    client.delete_model_version(NAME, "2")


def delete_all(client: MlflowClient) -> None:
    for number in range(1, 5):
        client.delete_model_version(NAME, str(number))


def delete_ledger(client: MlflowClient) -> None:
    client.delete_registered_model(NAME)


def change_line(client: MlflowClient, number: int = 2) -> None:
    line = json.loads(client.get_model_version(NAME, str(number)).tags[ENTRY])
    line["reason"] = "a better reason"
    client.set_model_version_tag(NAME, str(number), ENTRY, json.dumps(line, separators=(",", ":")))


def change_last(client: MlflowClient) -> None:
    change_line(client, 4)


def take_line_away(client: MlflowClient) -> None:
    client.delete_model_version_tag(NAME, "2", ENTRY)


def replace_line(client: MlflowClient) -> None:
    client.set_model_version_tag(NAME, "2", ENTRY, "{}")


def hash_anew(client: MlflowClient) -> None:
    """Change a line and chain all that follow to it."""
    change_line(client)
    previous = GENESIS
    for number in range(1, 5):
        line = json.loads(client.get_model_version(NAME, str(number)).tags[ENTRY])
        line["previous"] = previous
        text = to_line(Entry.model_validate(line))
        client.set_model_version_tag(NAME, str(number), ENTRY, text.decode())
        previous = files.sha256_bytes(text)


TAMPERED = (
    delete_last, delete_middle, delete_all, delete_ledger, change_line, change_last,
    take_line_away, replace_line, hash_anew,
)  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERED)
def test_tampering_is_noticed_by_a_checkout_that_has_seen_nothing_before(
    ledger: Ledger, client: MlflowClient, opened: Any, tmp_path: Path, tamper: Any
) -> None:
    for number in range(4):
        decide(ledger, str(number))
    tamper(client)
    stranger = opened(tmp_path / "stranger")
    for step in (stranger.entries, stranger.verify, lambda: decide(stranger)):
        with pytest.raises(TamperedError, match="was changed by other means"):
            step()


@pytest.mark.parametrize("tamper", [delete_last, delete_all, delete_ledger, change_last, hash_anew])
def test_tampering_with_the_end_and_the_tag_is_noticed_by_who_has_seen_it(
    ledger: Ledger, client: MlflowClient, opened: Any, tmp_path: Path, tamper: Any
) -> None:
    for number in range(4):
        decide(ledger, str(number))
    tamper(client)
    client.delete_registered_model_tag("segops", HEAD)
    again = opened(tmp_path)
    for step in (again.entries, again.verify, lambda: decide(again)):
        with pytest.raises(TamperedError, match=r"line [1-4]"):
            step()


@pytest.mark.parametrize("tamper", TAMPERED)
def test_verify_notices_all_of_it_without_the_tag(
    ledger: Ledger, client: MlflowClient, opened: Any, tmp_path: Path, tamper: Any
) -> None:
    for number in range(4):
        decide(ledger, str(number))
    tamper(client)
    client.delete_registered_model_tag("segops", HEAD)
    with pytest.raises(TamperedError):
        opened(tmp_path).verify()


def test_a_version_without_an_entry_changes_nothing(ledger: Ledger, client: MlflowClient) -> None:
    first = decide(ledger)
    client.create_model_version(NAME, "segops-ledger:/segops", await_creation_for=0)
    second = decide(ledger)
    assert ledger.entries() == [first, second]
    assert ledger.verify().number == 3


def test_a_copy_that_a_crash_cut_off_is_completed(
    ledger: Ledger, opened: Callable[[Path], Ledger], tmp_path: Path
) -> None:
    first = decide(ledger)
    with ledger.copy.open("ab") as file:
        file.write(b'2 {"sequence":2,"previous":"')
    again = opened(tmp_path)
    second = decide(again)
    assert opened(tmp_path).last_seen() == [first, second]


# The ledger file of an earlier segops.


def old_line(number: int, previous: str, model: str, version: str, **details: Any) -> str:
    kinds = {1: ("decision", "promoted"), 2: ("intent", "promote"), 3: ("done", "promote")}
    kind, verdict = kinds[(number - 1) % 3 + 1]
    tree = {
        "sequence": number, "previous": previous, "time": "2026-01-01T00:00:00+00:00", "kind": kind,
        "registry": "local", "model": model, "version": version, "run_id": "", "verdict": verdict,
        "reason": "better", "by": "me", "details": details,
    }  # fmt: skip
    return json.dumps(tree, separators=(",", ":"))


def write_old(path: Path, version: str = "7") -> None:
    """Three lines about another model, three about ours."""
    lines: list[str] = []
    for number in range(1, 7):
        details = {2: {"decision": 1}, 3: {"intent": 2}, 6: {"intent": 5}}.get(number, {})
        if number == 5:
            details = {"decision": 4, "bundle_digest": "d7", "differences": {}}
        previous = files.sha256_bytes(lines[-1].encode()) if lines else GENESIS
        model = "other" if number < 4 else "segops"
        lines.append(old_line(number, previous, model, version, **details))
    path.write_text("".join(f"{line}\n" for line in lines))


def test_an_old_file_is_taken_over_once(ledger: Ledger, tmp_path: Path, caplog: Any) -> None:
    write_old(tmp_path / "ledger.jsonl")
    assert [entry.version for entry in not_taken_over(ledger)] == ["7", "7", "7"]
    with caplog.at_level("INFO"):
        assert take_over(ledger) == 3
    assert not_taken_over(ledger) == []
    assert "3 lines were taken over" in caplog.text
    assert [entry.sequence for entry in ledger.entries()] == [1, 2, 3]
    assert ledger.entries()[1].details["decision"] == 1
    assert told(ledger).champion == "7"
    assert take_over(ledger) == 0
    decide(ledger)
    assert take_over(ledger) == 0
    assert len(ledger.entries()) == 4


def test_an_interrupted_take_over_is_completed(ledger: Ledger, tmp_path: Path) -> None:
    write_old(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines[:5]) + "\n")
    assert take_over(ledger) == 2
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    assert take_over(ledger) == 1
    assert ledger.entries()[2].details["intent"] == 2
    assert told(ledger).champion == "7"


def test_a_second_checkout_with_an_old_file_changes_nothing_and_is_told(
    ledger: Ledger, tmp_path: Path, caplog: Any
) -> None:
    decide(ledger)
    write_old(tmp_path / "ledger.jsonl")
    assert take_over(ledger) == 0
    assert "which others began" in caplog.text
    assert len(ledger.entries()) == 1


def test_an_old_file_that_was_changed_is_not_taken_over(ledger: Ledger, tmp_path: Path) -> None:
    write_old(tmp_path / "ledger.jsonl")
    path = tmp_path / "ledger.jsonl"
    path.write_text(path.read_text().replace("better", "worse", 1))
    with pytest.raises(TamperedError, match=r"ledger\.jsonl: line 2 does not fit"):
        take_over(ledger)
    assert ledger.entries() == []


def test_a_second_old_file_is_not_mixed_with_the_first(
    ledger: Ledger, opened: Any, tmp_path: Path, caplog: Any
) -> None:
    write_old(tmp_path / "ledger.jsonl")
    take_over(ledger)
    other = opened(tmp_path / "other")
    write_old(tmp_path / "other" / "ledger.jsonl", version="8")
    assert take_over(other) == 0
    assert "which others began" in caplog.text
    assert told(other).champion == "7"


def test_a_copy_with_a_hole_is_never_written(ledger: Ledger, opened: Any, tmp_path: Path) -> None:
    for number in range(3):
        decide(ledger, str(number))
    ledger.copy.unlink()  # while the process lives
    decide(ledger)
    assert not ledger.copy.exists()
    assert len(opened(tmp_path).entries()) == 4
    assert len(opened(tmp_path).last_seen()) == 4


@pytest.mark.parametrize("content", [b"1 {}\n", b"x\n", b"\xff\n", b"2 {}\n"])
def test_a_damaged_copy_is_named(ledger: Ledger, content: bytes) -> None:
    ledger.copy.parent.mkdir()
    ledger.copy.write_bytes(content)
    with pytest.raises(SegopsError, match=r"\.log: this copy of the ledger is damaged"):
        ledger.entries()


def test_an_entry_of_a_newer_segops_is_no_tampering(ledger: Ledger, client: MlflowClient) -> None:
    entry = decide(ledger)
    tree = {**entry.model_dump(), "sequence": 2, "kind": "approved", "new": 1}
    tree["previous"] = files.sha256_bytes(to_line(entry))
    client.create_model_version(
        NAME, "segops-ledger:/segops", tags={ENTRY: json.dumps(tree)}, await_creation_for=0
    )
    with pytest.raises(SegopsError, match="Update this checkout") as raised:
        ledger.entries()
    assert not isinstance(raised.value, TamperedError)


def test_of_two_ends_of_a_change_the_first_counts(ledger: Ledger) -> None:
    intent = promote(ledger, "1")
    ledger.append(
        "abandoned", verdict="promote", reason="", by="", details={"intent": intent.sequence}
    )
    assert told(ledger).champion == "1"


def test_a_lost_copy_is_made_anew(ledger: Ledger, opened: Any, tmp_path: Path) -> None:
    written = [decide(ledger), decide(ledger)]
    shutil.rmtree(ledger.copy.parent)
    assert opened(tmp_path).entries() == written
    assert opened(tmp_path).last_seen() == written


# What the ledger tells.


def test_champions_follow_promotions_and_rollbacks(ledger: Ledger) -> None:
    for version in ("1", "2", "3"):
        promote(ledger, version)
    assert told(ledger).champions == ("1", "2", "3")
    assert told(ledger).champion == "3"
    assert told(ledger).before("3") == "2"
    assert told(ledger).before("1") is None
    move(ledger, "rollback", "3", after={"champion": "2", "previous": "1"})
    assert told(ledger).champions == ("1", "2")
    assert told(ledger).withdrawn == {"3": "why"}


def test_a_rollback_to_an_earlier_release_makes_that_one_champion(ledger: Ledger) -> None:
    for version in ("1", "2", "3"):
        promote(ledger, version)
    move(ledger, "rollback", "3", after={"champion": "1", "previous": None})
    assert told(ledger).champion == "1"
    assert told(ledger).before("1") == "2"


def test_a_version_that_was_champion_twice_is_not_its_own_predecessor(ledger: Ledger) -> None:
    for version in ("1", "2", "1"):
        promote(ledger, version)
    assert told(ledger).before("1") == "2"
    move(ledger, "rollback", "1", after={"champion": "2", "previous": None})
    assert told(ledger).champions == ("2",)


def test_an_unfinished_change_is_pending_and_no_release(ledger: Ledger) -> None:
    promote(ledger, "1")
    intent = move(ledger, "promote", "2", done=False, bundle_digest="d2", differences={})
    assert told(ledger).champion == "1"
    assert told(ledger).pending == intent
    ledger.append(
        "abandoned", verdict="promote", reason="", by="", details={"intent": intent.sequence}
    )
    assert told(ledger).pending is None
    assert told(ledger).champion == "1"


def best(ledger: Ledger) -> list[str]:
    return [release.version for release in told(ledger).best]


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


@pytest.mark.parametrize("kind", ["adopted", "observed"])
def test_a_release_that_was_never_compared_keeps_its_place(ledger: Ledger, kind: Any) -> None:
    """An alias set by hand: nobody knows which is better, so both must be held against.

    An earlier segops counted such a champion without adopting it.
    """
    promote(ledger, "1")
    details = {"bundle_digest": "d7", **({TAKEN_OVER: "0"} if kind == "observed" else {})}
    ledger.append(kind, verdict="adopt", reason="", by="", version="7", details=details)
    assert best(ledger) == ["1", "7"]
    promote(ledger, "8", d1=0.1, d7=-0.01)
    assert best(ledger) == ["7"]


def test_a_champion_that_was_set_by_hand_is_no_release(ledger: Ledger) -> None:
    promote(ledger, "1")
    ledger.append("observed", verdict="observed", reason="", by="", version="7")
    assert (told(ledger).champion, told(ledger).observed) == ("1", "7")
    assert best(ledger) == ["1"]
    promote(ledger, "2", d1=0.1)
    assert told(ledger).observed is None
