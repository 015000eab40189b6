"""Undoing a withdrawal: the gate decides on the version anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.cli import life
from segops.release import promotion, versions
from segops.release.approval import approve
from segops.release.reinstate import reinstate
from segops.release.rollback import rollback
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, challenge, failed, kinds, release

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Version 2 was withdrawn by a rollback to version 1; the workspace holds version 2."""
    root = made.make(tmp_path / "checkout")
    release(root, seed=1, quality=0.6)
    release(root, seed=2, quality=0.8)
    rollback(root, "halos")
    return root


def test_a_withdrawn_version_comes_back_through_the_gate(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SegopsError, match=r"segops reinstate 2 --reason WHY"):
        rollback(root, "worse", to="2")
    assert "segops reinstate 2" in release(root, seed=2, quality=0.8).reason
    with pytest.raises(SegopsError, match=r"withdrawn: halos .segops reinstate 2"):
        approve(root, "2", "good all the same")
    assert reinstate(root, "2", "sensor mended") is True
    assert kinds(root)[-1] == ("reinstated", "reinstate", "2")
    assert aliases(root) == {"champion": "1", "challenger": "2"}
    tags = made.client(root).get_model_version("segops", "2").tags
    assert versions.WITHDRAWN not in tags
    assert status(root).withdrawn == {}
    assert status(root).decisions[-1].what == "reinstated"
    with pytest.raises(SegopsError, match="only release"):
        rollback(root, "worse")  # reinstated is not released: the gate has not decided
    with pytest.raises(SegopsError, match="version 2 was never champion"):
        rollback(root, "worse", to="2")

    assert release(root, seed=2, quality=0.8).verdict == "promoted"
    assert aliases(root) == {"champion": "2", "previous": "1"}
    rollback(root, "halos again")
    assert status(root).withdrawn == {"2": "halos again"}
    assert failed(release(root, seed=2, quality=0.8)) == ["artifact"]

    monkeypatch.chdir(root)
    life.reinstate("2", "the lens was dirty")
    assert "Gate on version 2: promoted" in capsys.readouterr().out
    assert aliases(root)["champion"] == "2"
    with pytest.raises(SegopsError, match="nothing to reinstate"):
        reinstate(root, "2", "why")


def test_where_the_workspace_holds_another_model_it_says_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    challenge(root, seed=3, quality=0.9)
    before = made.lines(root)
    monkeypatch.chdir(root)
    life.reinstate("2", "sensor mended")
    assert "dvc checkout" in capsys.readouterr().out
    assert len(made.lines(root)) == len(before) + 1, "the gate decides on nothing"
    assert aliases(root) == {"champion": "1", "challenger": "2"}
    made.train(root, seed=2, quality=0.8)
    assert promotion.gate(root).verdict == "promoted"


def test_a_reinstatement_that_a_crash_interrupted_is_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(versions, "delete_tag", crash)
        reinstate(root, "2", "sensor mended")
    assert release(root, seed=2, quality=0.8).verdict == "rejected", "the tag still says so"
    reinstate(root, "2", "sensor mended")
    assert release(root, seed=2, quality=0.8).verdict == "promoted"


def test_nothing_changes_where_there_is_nothing_to_reinstate(root: Path) -> None:
    challenge(root, seed=3, quality=0.1)
    before = aliases(root), made.lines(root)
    for number, reason, message in (
        ("2", " ", "needs a reason"),
        ("9", "why", "no version '9'"),
        ("two", "why", "no version 'two'"),
        ("1", "why", "alias champion"),
        ("3", "why", r"was not withdrawn \(withdrawn: 2\)"),
    ):
        with pytest.raises(SegopsError, match=message):
            reinstate(root, number, reason)
    assert (aliases(root), made.lines(root)) == before
