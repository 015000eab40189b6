"""Two checkouts share one registry: there is one truth, and no change is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segops.release import changes, promotion, versions
from segops.release.ledger import Ledger
from segops.release.rollback import rollback
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, kinds, release

pytestmark = pytest.mark.slow


@pytest.fixture
def checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two checkouts whose MLFLOW_TRACKING_URI names the same registry."""
    made.put_database(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    first, second = (made.make(tmp_path / name, database=False) for name in ("a", "b"))
    return first, second


def before(
    patch: pytest.MonkeyPatch, alias: str, deed: Callable[[], Any], after: bool = False
) -> None:
    """Let something happen once, right before (or after) an alias is set."""
    set_alias, waiting = versions.set_alias, [deed]

    def paused(store: Any, model: str, name: str, number: str | None) -> None:
        happens = name == alias and bool(waiting)
        if happens and not after:
            waiting.pop()()
        set_alias(store, model, name, number)
        if happens and after:
            waiting.pop()()

    patch.setattr(versions, "set_alias", paused)


def test_a_rollback_that_both_asked_for_happens_once(checkouts: tuple[Path, Path]) -> None:
    first, second = checkouts
    release(first, seed=1, quality=0.8)
    release(second, seed=2, quality=0.85)
    assert status(first).versions[0].version == status(second).versions[0].version == "2"
    result = rollback(first, "halos")
    assert (result.withdrawn, result.champion) == ("2", "1")
    with pytest.raises(SegopsError, match=r"version 1 became champion since .* it was 2"):
        rollback(second, "halos")
    assert aliases(first) == {"champion": "1"}
    # Now it has seen it, and there is nothing left to restore: 2 was withdrawn, in whichever place.
    with pytest.raises(SegopsError, match="only release"):
        rollback(second, "halos")
    with pytest.raises(SegopsError, match="version 2 was withdrawn: halos"):
        rollback(second, "halos", to="2")
    assert kinds(first) == kinds(second)
    assert status(second).withdrawn == {"2": "halos"}


def test_of_two_promotions_at_once_the_second_is_decided_anew(
    checkouts: tuple[Path, Path],
) -> None:
    first, second = checkouts
    release(first, seed=1, quality=0.6)
    challenge(first, seed=2, quality=0.9)
    challenge(second, seed=3, quality=0.7)
    quick, slow = promotion.gate(first), promotion.gate(second)
    assert quick.verdict == slow.verdict == "promoted"
    assert promotion.promote(first, quick).verdict == "promoted"
    again = promotion.promote(second, slow)
    assert again.verdict == "rejected"
    assert again.champion_version == "2"
    assert aliases(first) == {"champion": "2", "previous": "1", "challenger": "3"}
    assert kinds(second)[-1] == ("decision", "rejected", "3")


@pytest.mark.long
def test_a_decision_during_which_another_was_written_is_made_anew(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = checkouts
    release(first, seed=1, quality=0.6)
    challenge(first, seed=2, quality=0.9)
    challenge(second, seed=3, quality=0.7)
    gather, waiting = promotion.gather, [lambda: release(first, seed=2, quality=0.9)]

    def slowly(*arguments: Any) -> Any:
        evidence = gather(*arguments)
        if waiting:
            waiting.pop()()
        return evidence

    monkeypatch.setattr(promotion, "gather", slowly)
    decision = promotion.gate(second)
    assert decision.verdict == "rejected"
    assert decision.champion_version == "2"
    assert [kind for kind in kinds(first) if kind[2] == "3"] == [("decision", "rejected", "3")]


@pytest.mark.long
def test_a_process_that_rested_finds_its_change_completed(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests between the intent and the alias; meanwhile another completes it and goes on."""
    first, second = checkouts
    release(first, seed=1, quality=0.6)
    challenge(first, seed=2, quality=0.7)
    decision = promotion.gate(first)
    monkeypatch.setattr(changes, "LEASE_SECONDS", 0.0)
    before(monkeypatch, "champion", lambda: release(second, seed=3, quality=0.9))
    promotion.promote(first, decision)
    assert aliases(first)["champion"] == "3"
    assert kinds(first).count(("done", "promote", "2")) == 1
    (warning,) = status(first).warnings
    assert "version 3" in warning.lower()
    assert "smoke test" in warning


def test_a_change_that_another_process_is_carrying_out_is_waited_for(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = checkouts
    release(first, seed=1, quality=0.6)
    challenge(first, seed=2, quality=0.7)
    challenge(second, seed=3, quality=0.9)
    decision = promotion.gate(first)
    monkeypatch.setattr(changes, "LEASE_SECONDS", 1.0)
    waited: list[float] = []
    monkeypatch.setattr(changes.time, "sleep", waited.append)
    before(monkeypatch, "champion", lambda: promotion.gate(second))
    promotion.promote(first, decision)
    assert waited, "the second saw the first's intent and waited before it completed it"
    assert aliases(first)["champion"] == "2"


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.long)])
def test_an_alias_that_is_moved_by_hand_meanwhile_is_seen_and_written_down(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Between the decision and the change, and between the change and its end."""
    first, _ = checkouts
    release(first, seed=1, quality=0.6)
    challenge(first, seed=2, quality=0.5)
    challenge(first, seed=3, quality=0.7)
    decision = promotion.gate(first)

    def by_hand() -> None:
        made.client(first).set_registered_model_alias("segops", "champion", "2")

    if after:
        before(monkeypatch, "champion", by_hand, after=True)
    else:
        append = Ledger.append

        def slowly(ledger: Ledger, kind: Any, **rest: Any) -> Any:
            entry = append(ledger, kind, **rest)
            if kind == "intent":
                by_hand()
            return entry

        monkeypatch.setattr(Ledger, "append", slowly)
    again = promotion.promote(first, decision)
    assert again.verdict == "rejected"
    assert "version 2 has the alias champion" in again.reason
    assert ("abandoned", "promote", "3") in kinds(first)
    assert ("observed", "observed", "2") in kinds(first)
    assert aliases(first) == {"champion": "2", "challenger": "3"}
