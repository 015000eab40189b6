"""Where the policy asks for it, a person approves a candidate before it is promoted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from segops.record import lineage
from segops.release import approval, identity, promotion, versions
from segops.release.approval import approve
from segops.release.changes import looking
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.integration.test_rollback import spoil
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, kinds, release

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def started_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are started by another person than the user of the tests, who has no key."""
    monkeypatch.delenv("SEGOPS_SIGNING_KEY", raising=False)
    monkeypatch.setenv("SEGOPS_STARTED_BY", "ada@laptop")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 1 is champion, version 2 a candidate."""
    made.put_database(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    root = made.make(tmp_path / "a", database=False)
    release(root, seed=1, quality=0.6)
    made.set_params(root, gate={"approval": "required"})
    assert release(root, seed=2, quality=0.8).verdict == "candidate"
    return root


@pytest.fixture
def other(root: Path) -> Path:
    """Another checkout that reaches the registry; it holds no model."""
    return made.make(root.parent / "b", database=False)


def told(root: Path) -> list[str]:
    return [event.what for event in status(root).decisions]


def test_a_user_of_the_system_approves_and_is_not_verified(root: Path, other: Path) -> None:
    assert aliases(root) == {"champion": "1", "candidate": "2", "challenger": "2"}
    assert status(root).candidates == ("2",)
    before = made.lines(root)
    assert release(root, seed=2, quality=0.8).verdict == "candidate", "nothing is decided anew"
    assert made.lines(root) == before

    approved = approve(other, "2", "looked at the worst images")
    assert approved.by == f"{identity.system_user()} (not verified)"
    assert aliases(root) == {"champion": "2", "previous": "1"}
    assert kinds(root)[-3:] == [
        ("approved", "approve", "2"), ("intent", "promote", "2"), ("done", "promote", "2"),
    ]  # fmt: skip
    entry = made.lines(root)[-3]
    assert entry["by"].endswith("(not verified)")
    assert entry["reason"] == "looked at the worst images"
    assert entry["details"]["approver"]["kind"] == "system user"
    assert "envelope" not in entry["details"]
    tags = made.client(root).get_model_version("segops", "2").tags
    assert tags["segops.approved_by"].endswith("(not verified)")
    assert told(root)[-2:] == [f"approved by {approved.by}", "promoted to champion"]
    assert "(not verified): looked at" in status(root).decisions[-1].reason
    assert status(root).candidates == ()
    assert promotion.gate(root).verdict == "unchanged"
    with pytest.raises(SegopsError, match="champion already"):
        approve(other, "2", "why")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SEGOPS_SIGNING_KEY", str(path))
    return path


def test_a_signature_says_who_approved(root: Path, other: Path, key: Path) -> None:
    approved = approve(other, "2", "looked at the worst images")
    assert approved.by.endswith("(signature)")
    assert aliases(root)["champion"] == "2"
    with looking(root) as registry:
        entries = registry.ledger.entries()
    decided = next(entry for entry in entries if entry.verdict == "candidate")
    entry = next(entry for entry in entries if entry.kind == "approved")
    assert entry.details["approver"]["name"][:12] in approved.by
    assert approval.is_signed(entry, decided)
    assert told(root)[-2] == f"approved by {approved.by}"
    assert key.read_text().splitlines()[1] not in str(made.lines(root)), "the key is secret"
    # Neither another reason nor another decision was signed, nor by another key.
    assert not approval.is_signed(entry.model_copy(update={"reason": "other"}), decided)
    assert not approval.is_signed(entry, decided.model_copy(update={"reason": "other"}))
    approver = {**entry.details["approver"], "name": "0" * 64}
    forged = entry.model_copy(update={"details": {**entry.details, "approver": approver}})
    assert not approval.is_signed(forged, decided)
    assert approval.told(forged, decided).endswith("whose signature does not fit")


def test_a_login_says_who_approved(
    root: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server answers is that of test_login."""
    monkeypatch.setattr(identity, "login", lambda _: "ada")
    with pytest.raises(SegopsError, match=r"ada \(login\) started its run"):
        approve(other, "2", "mine")
    monkeypatch.setattr(identity, "login", lambda _: "bob")
    assert approve(other, "2", "looked at it").by == "bob (login)"


def test_who_started_a_run_does_not_approve_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = identity.system_user()
    monkeypatch.setenv("SEGOPS_STARTED_BY", f"{user.partition('@')[0]}@desktop")
    assert release(root, seed=3, quality=0.85).verdict == "candidate"
    monkeypatch.setenv("SEGOPS_STARTED_BY", "somebody@else")
    with pytest.raises(SegopsError, match="may not approve it"):
        approve(root, "3", "mine")
    # The policy of the decision counts, not that of the approver's checkout.
    made.set_params(root, gate={"approve_own": True})
    with pytest.raises(SegopsError, match="may not approve it"):
        approve(root, "3", "mine")
    assert promotion.gate(root).verdict == "candidate"
    approve(root, "3", "mine")
    assert aliases(root)["champion"] == "3"


@pytest.mark.parametrize(
    ("kind", "name", "names", "is_same"),
    [
        ("system user", "ada@here", {"ada@here"}, True),
        ("system user", "ada@here", {"ada@there"}, True),
        ("system user", "ada@here", {"bob@here", "prefect flow run 1"}, False),
        ("login", "bob", {"bob@there"}, True),
        ("login", "bob", {"ada@here"}, True),
        ("login", "bob", {"ada@there"}, False),
        ("signature", "0a1b", {"ada@here"}, True),
        ("signature", "0a1b", {"ada@there"}, False),
    ],
)
def test_one_person_under_several_names(
    kind: identity.Kind, name: str, names: set[str], is_same: bool
) -> None:
    assert identity.Identity(kind, name, "ada@here").is_one_of(names) is is_same


def test_a_candidate_of_an_earlier_champion_is_decided_anew(root: Path, other: Path) -> None:
    assert release(root, seed=3, quality=0.85).verdict == "candidate"
    assert status(root).candidates == ("2", "3")
    assert aliases(root)["candidate"] == "3"
    approve(other, "3", "better")
    assert status(root).candidates == ()
    with pytest.raises(SegopsError, match=r"compared with champion 1, and 3 is champion now"):
        approve(other, "2", "also good")
    # Version 2 is worse than version 3 by more than the margin.
    assert release(root, seed=2, quality=0.8).verdict == "rejected"
    with pytest.raises(SegopsError, match=r"last decision on it is rejected \(candidates: none\)"):
        approve(other, "2", "also good")


def test_a_candidate_that_is_rejected_later_is_none_any_more(root: Path) -> None:
    made.set_params(root, gate={"min_miou": 0.99})
    assert promotion.gate(root).verdict == "rejected"
    assert "candidate" not in aliases(root)
    made.set_params(root, gate={"min_miou": 0.2, "approval": "none"})
    assert promotion.promote(root, promotion.gate(root)).verdict == "promoted"


def test_nothing_changes_where_something_is_wrong(
    root: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, written = made.client(root), made.lines(root)

    def refused(number: str, reason: str, message: str) -> None:
        before = aliases(root)
        with pytest.raises(SegopsError, match=message):
            approve(root, number, reason)
        assert (aliases(root), made.lines(root)) == (before, written)

    refused("2", " ", "needs a reason")
    refused("7", "why", "no version '7'")
    key.write_text("no key")
    refused("2", "why", "no private key")
    monkeypatch.delenv("SEGOPS_SIGNING_KEY")
    spoil(root, "2")
    refused("2", "why", "was changed")
    client.set_model_version_tag("segops", "2", "segops.bundle_digest", "0" * 64)
    refused("2", "why", "was changed")
    client.delete_registered_model_alias("segops", "champion")
    refused("2", "why", r"compared with champion 1, and \(none\) is champion now")


def test_evidence_that_gives_another_verdict_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with looking(root) as registry:
        decided = approval.waiting(registry.ledger.entries(), "1")[0]
        tree = decided.model_dump()
        tree["details"]["evidence"]["score"]["miou"] = 0.1
        worse = decided.model_validate(tree)
        with pytest.raises(SegopsError, match="decided again from its evidence it is rejected"):
            approval.decided_again(registry, worse)
        tree["details"]["policy"]["new"] = 1
        with pytest.raises(SegopsError, match=r"evidence of entry \d+ cannot be read here"):
            approval.decided_again(registry, decided.model_validate(tree))


def test_the_first_champion_is_approved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = made.make(tmp_path / "first")
    made.set_params(root, gate={"approval": "required"})
    assert release(root, seed=1, quality=0.8).verdict == "candidate"
    assert aliases(root) == {"candidate": "1", "challenger": "1"}
    approve(root, "1", "the first")
    assert aliases(root) == {"champion": "1"}
    assert lineage.tag("approved_by") in made.client(root).get_model_version("segops", "1").tags
    assert versions.CANDIDATE not in aliases(root)
