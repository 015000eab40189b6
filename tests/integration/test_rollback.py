"""Rolling back, and completing what a crash left half done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from segops.release import promotion, versions
from segops.release import rollback as module
from segops.release.rollback import rollback
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, kinds, release


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made.make(tmp_path / "checkout")


# Rolling back.


@pytest.mark.slow
def test_rollback_through_a_chain_of_three(root: Path) -> None:
    for seed, quality in ((1, 0.6), (2, 0.7), (3, 0.8)):
        release(root, seed, quality)
    assert aliases(root) == {"champion": "3", "previous": "2"}

    result = rollback(root, "halos around birds")
    assert (result.withdrawn, result.champion, result.previous) == ("3", "2", "1")
    assert aliases(root) == {"champion": "2", "previous": "1"}
    version = made.client(root).get_model_version("segops", "3")
    assert version.tags[versions.WITHDRAWN] == "halos around birds"

    result = rollback(root, "worse")
    assert (result.withdrawn, result.champion, result.previous) == ("2", "1", None)
    assert aliases(root) == {"champion": "1"}
    with pytest.raises(SegopsError, match="only release"):
        rollback(root, "all of them")
    assert aliases(root) == {"champion": "1"}
    assert kinds(root)[-1] == ("done", "rollback", "2")


@pytest.mark.slow
def test_a_withdrawn_version_comes_back_by_no_way(root: Path) -> None:
    release(root, seed=1, quality=0.6)
    decision = release(root, seed=2, quality=0.8)
    rollback(root, "broke in production")
    again = release(root, seed=2, quality=0.8)
    assert again.verdict == "rejected"
    assert "broke in production" in again.reason
    with pytest.raises(SegopsError, match="last decision"):
        promotion.promote(root, decision)
    assert aliases(root)["champion"] == "1"

    assert release(root, seed=3, quality=0.65).verdict == "promoted", "2 is no measure any more"
    assert aliases(root)["previous"] == "1"
    rollback(root, "worse")
    assert aliases(root)["champion"] == "1"


@pytest.mark.slow
def test_a_decision_from_before_the_rollback_is_used_up(root: Path) -> None:
    release(root, seed=1, quality=0.6)
    decision = release(root, seed=2, quality=0.8)
    rollback(root, "broke in production")
    with pytest.raises(SegopsError, match="withdrawn by a rollback: broke in production"):
        promotion.promote(root, decision)
    assert aliases(root)["champion"] == "1"


def test_rollback_without_a_champion_or_a_reason(root: Path) -> None:
    with pytest.raises(SegopsError, match="no champion"):
        rollback(root, "why")
    with pytest.raises(SegopsError, match="reason"):
        rollback(root, " ")


@pytest.mark.slow
def test_a_version_of_choice_comes_back(root: Path) -> None:
    for seed, quality in ((1, 0.6), (2, 0.7), (3, 0.8)):
        release(root, seed, quality)
    before = made.snapshot(root), made.lines(root)
    planned = rollback(root, "halos", to="1", dry_run=True)
    assert (planned.withdrawn, planned.champion) == ("3", "1")
    assert (made.snapshot(root), made.lines(root)) == before
    for wrong, message in (("3", "champion already"), ("9", "never champion")):
        with pytest.raises(SegopsError, match=message):
            rollback(root, "halos", to=wrong)
    with pytest.raises(SegopsError, match="version 3 is champion, not 2"):
        rollback(root, "halos", champion="2")
    assert (made.snapshot(root), made.lines(root)) == before
    assert rollback(root, "halos", to="1", champion="3") == planned
    assert aliases(root) == {"champion": "1", "previous": "2"}
    assert status(root).warnings == ()
    assert release(root, seed=4, quality=0.9).verdict == "promoted"


def spoil(root: Path, version: str) -> None:
    source = made.client(root).get_model_version("segops", version).source
    (weights,) = Path(unquote(urlsplit(source).path)).rglob("weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"evil")


def remove(root: Path, version: str) -> None:
    made.client(root).delete_model_version("segops", version)


def remove_files(root: Path, version: str) -> None:
    source = made.client(root).get_model_version("segops", version).source
    shutil.rmtree(unquote(urlsplit(source).path))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (spoil, "was changed"),
        (remove, "gone from the registry"),
        (remove_files, "version 1: its artifact at .* is gone"),
    ],
)
def test_nothing_changes_where_the_version_to_restore_is_not_usable(
    root: Path, harm: Any, message: str
) -> None:
    release(root, seed=1, quality=0.6)
    release(root, seed=2, quality=0.8)
    harm(root, "1")
    before = aliases(root), made.lines(root)
    with pytest.raises(SegopsError, match=message):
        rollback(root, "halos")
    assert (aliases(root), made.lines(root)) == before
    assert versions.WITHDRAWN not in made.client(root).get_model_version("segops", "2").tags


@pytest.mark.slow
@pytest.mark.long
def test_an_old_version_that_was_deleted_hinders_nothing(root: Path) -> None:
    for seed, quality in ((1, 0.6), (2, 0.7), (3, 0.8)):
        release(root, seed, quality)
    remove(root, "1")
    assert rollback(root, "halos").champion == "2"
    assert aliases(root) == {"champion": "2"}
    assert status(root).warnings == ()


@pytest.mark.slow
@pytest.mark.long
def test_a_champion_that_was_deleted_can_be_rolled_back(root: Path) -> None:
    release(root, seed=1, quality=0.6)
    release(root, seed=2, quality=0.8)
    remove(root, "2")
    assert "No version has the alias champion" in status(root).warnings[0]
    result = rollback(root, "it was deleted")
    assert (result.withdrawn, result.champion) == ("2", "1")
    assert aliases(root) == {"champion": "1"}
    assert status(root).warnings == ()


@pytest.mark.slow
@pytest.mark.long
def test_an_alias_that_is_moved_while_the_version_is_checked_is_seen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, quality in ((1, 0.6), (2, 0.7), (3, 0.8)):
        release(root, seed, quality)
    challenge(root, seed=4, quality=0.1)
    check = module.require_usable

    def slowly(*arguments: Any) -> None:
        check(*arguments)
        made.client(root).set_registered_model_alias("segops", "champion", "4")

    monkeypatch.setattr(module, "require_usable", slowly)
    with pytest.raises(SegopsError, match="version 4 is champion since"):
        rollback(root, "halos")
    assert ("observed", "observed", "4") in kinds(root)
    assert aliases(root)["champion"] == "4"
    monkeypatch.setattr(module, "require_usable", check)
    result = rollback(root, "not ours")
    assert (result.withdrawn, result.champion) == ("4", "3"), "the last release comes back"


# Crashes.


class Crash(BaseException):
    """The process ends here."""


def _arm(patch: pytest.MonkeyPatch, changes: int) -> None:
    """Let the process end before the n-th change of an alias or of a version's tags."""
    left = [changes]

    def guard(function: Any) -> Any:
        def guarded(*arguments: Any) -> Any:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return function(*arguments)

        return guarded

    patch.setattr(versions, "set_alias", guard(versions.set_alias))
    patch.setattr(versions, "set_tags", guard(versions.set_tags))


@pytest.mark.parametrize(
    "changes", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]
)
def test_a_crash_while_promoting_is_completed_by_whoever_comes_next(
    root: Path, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1, quality=0.6)
    challenge(root, seed=2, quality=0.8)
    decision = promotion.gate(root)
    with monkeypatch.context() as patch:
        _arm(patch, changes)
        with pytest.raises(Crash):
            promotion.promote(root, decision)
    assert kinds(root)[-1] == ("intent", "promote", "2")
    promotion.promote(root, decision)
    assert aliases(root) == {"champion": "2", "previous": "1"}
    assert kinds(root)[-1] == ("done", "promote", "2")
    assert promotion.gate(root).verdict == "unchanged"


@pytest.mark.parametrize(
    "changes", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]
)
@pytest.mark.slow
def test_a_crash_while_rolling_back_is_completed_by_whoever_comes_next(
    root: Path, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1, quality=0.6)
    release(root, seed=2, quality=0.8)
    with monkeypatch.context() as patch:
        _arm(patch, changes)
        with pytest.raises(Crash):
            rollback(root, "broke")
    assert "began the rollback of version 2" in status(root).warnings[0]
    before = aliases(root), made.lines(root)
    with pytest.raises(SegopsError, match="which comes first"):
        rollback(root, "broke", dry_run=True)
    assert (aliases(root), made.lines(root)) == before
    again = rollback(root, "broke")
    assert (again.withdrawn, again.champion, again.completed) == ("2", "1", True)
    assert aliases(root) == {"champion": "1"}
    assert kinds(root).count(("done", "rollback", "2")) == 1
    tags = made.client(root).get_model_version("segops", "2").tags
    assert tags[versions.WITHDRAWN] == "broke"


@pytest.mark.slow
def test_an_intent_that_the_world_overtook_is_abandoned(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1, quality=0.6)
    challenge(root, seed=2, quality=0.7)
    decision = promotion.gate(root)
    with monkeypatch.context() as patch:
        _arm(patch, 0)
        with pytest.raises(Crash):
            promotion.promote(root, decision)
    challenge(root, seed=3, quality=0.8)
    made.client(root).set_registered_model_alias("segops", "champion", "3")
    assert "version 3 has the alias champion" in promotion.gate(root).reason
    assert kinds(root)[-3:-1] == [("abandoned", "promote", "2"), ("observed", "observed", "3")]
    assert aliases(root)["champion"] == "3"
