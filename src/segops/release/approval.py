"""Approves candidates: versions that passed a gate whose policy asks for a person's approval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from segops import files
from segops.params.gate import GateParams
from segops.record import artifact
from segops.record.lineage import tag
from segops.record.tracking import public_line
from segops.release import releases, signing, statement, versions
from segops.release.chain import Entry, to_line
from segops.release.changes import Registry, change, changing
from segops.release.gate import Decision, decide
from segops.release.identity import Identity, identify
from segops.release.reinstate import existing
from segops.release.releases import last_decision
from segops.release.versions import CHAMPION, PREVIOUS, Version
from segops.runtime.errors import SegopsError
from segops.words import first_line

PREDICATE = "https://segops.dev/approval/v1"
STARTED_BY = tag("started_by")


@dataclass(frozen=True)
class Approved:
    """What :func:`approve` did.

    Attributes:
        decision: The decision that was approved, as it was carried out.
        by: The approver, and how the approver is known.
    """

    decision: Decision
    by: str


def approve(root: Path, number: str, reason: str, *, use_login: bool = True) -> Approved:
    """Check the evidence on a candidate again, write down who approves it, and promote it.

    The workspace may hold any model: all evidence comes from the registry and its ledger.

    Args:
        root: A workspace that reaches the registry.
        number: The version.
        reason: Why; written into the ledger.
        use_login: Whether the credentials for MLflow's server are the approver's own.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        MovedError: Another process changed the registry meanwhile.
        SegopsError: No reason is given; the version does not exist, is no candidate, was withdrawn
            or was changed; the champion is no longer the one that it was compared with; the
            evidence does not give the same verdict; or the approver started the run.
    """
    if not reason.strip():
        raise SegopsError("An approval needs a reason: segops approve VERSION --reason 'WHY'.")
    with changing(root) as registry:
        version, now = existing(registry, number), registry.aliases()
        decided = _candidate(registry, number, now.get(CHAMPION))
        decision = decided_again(registry, decided)
        _require_intact(registry, version, str(decided.details["bundle_digest"]))
        private = signing.signer()
        key_id = None if private is None else str(private.public_key.keyid)
        identity = identify(registry.store, key_id, use_login=use_login)
        _require_other_person(registry, version, decided, identity)
        content = _content(registry.model, decided, reason.strip())
        details = {
            "decision": decided.sequence,
            "bundle_digest": decided.details["bundle_digest"],
            "approver": asdict(identity),
        }
        if private is not None:
            details["envelope"] = signing.enveloped(content, private)
            details["public_key"] = signing.public_pem(private).decode()
        registry.ledger.append(
            "approved",
            verdict="approve",
            reason=reason.strip(),
            by=identity.words,
            version=number,
            run_id=version.run_id,
            details=details,
        )
        change(
            registry,
            "promote",
            number,
            version.run_id,
            f"Approved by {identity.words}: {reason.strip()} {decided.reason}",
            now,
            {PREVIOUS: now.get(CHAMPION), CHAMPION: number},
            decision=decided.sequence,
            bundle_digest=decided.details["bundle_digest"],
            differences=decided.details["differences"],
            smoke_due=True,
        )
        tags = {tag("approved_by"): identity.words, tag("approval_reason"): reason.strip()}
        versions.set_tags(registry.store, registry.model, version, tags)
    return Approved(decision.model_copy(update={"verdict": "promoted"}), identity.words)


def waiting(entries: Sequence[Entry], champion: str | None) -> list[Entry]:
    """Return the decisions on the candidates that can be approved, oldest first.

    Args:
        entries: The ledger's entries.
        champion: The version with the alias `champion`.
    """
    past = releases.read(entries)
    numbers = {entry.version for entry in entries if entry.verdict == "candidate"}
    decisions = (last_decision(entries, number) for number in numbers)
    found = [
        decided
        for decided in decisions
        if decided is not None
        and decided.verdict == "candidate"
        and decided.details["champion"] == champion
        and decided.version not in past.withdrawn
    ]
    return sorted(found, key=lambda entry: entry.sequence)


def told(approved: Entry, decided: Entry) -> str:
    """Return who approved, and how that is known, in words.

    Args:
        approved: The entry of the approval.
        decided: The entry of the decision that it names.
    """
    if not is_trusted(approved, decided):
        return f"approved by {approved.by}, whose signature does not fit"
    return f"approved by {approved.by}"


def is_trusted(approved: Entry, decided: Entry) -> bool:
    """Whether an approval has the signature that it claims, if it claims one."""
    is_claimed = approved.details["approver"]["kind"] == "signature"
    return not is_claimed or is_signed(approved, decided)


def is_signed(approved: Entry, decided: Entry) -> bool:
    """Whether an approval holds a signature over exactly this approval, by the key that it names.

    Args:
        approved: The entry of the approval.
        decided: The entry of the decision that it names.
    """
    details = approved.details
    try:
        envelope = signing.opened(details["envelope"])
        key = signing.public_key_of(str(details["public_key"]).encode())
    except (KeyError, ValueError):
        return False
    return (
        key.keyid == details["approver"]["name"]
        and envelope.payload == _content(approved.model, decided, approved.reason)
        and signing.is_signed_with(envelope, key)
    )


def decided_again(registry: Registry, decided: Entry) -> Decision:
    """Decide from the evidence and the policy in a decision's entry, as the gate did.

    Raises:
        SegopsError: The verdict is another, or the entry is of another version of segops.
    """
    try:
        evidence = statement.read_evidence(decided.details["evidence"])
        policy = GateParams.model_validate(decided.details["policy"])
    except (KeyError, ValueError, ValidationError) as error:
        raise SegopsError(
            f"{registry.ledger.where}: the evidence of entry {decided.sequence} cannot be read "
            f"here ({first_line(error)}). `segops promote` decides on version {decided.version} "
            "anew."
        ) from None
    decision = decide(evidence, policy)
    if decision.verdict != decided.verdict:
        raise SegopsError(
            f"{registry.model} version {decided.version}: decided again from its evidence it is "
            f"{decision.verdict}, not {decided.verdict}: {decision.reason} `segops promote` "
            "decides anew."
        )
    return decision


def _candidate(registry: Registry, number: str, champion: str | None) -> Entry:
    """Return the decision that made a version a candidate, if it still stands."""
    entries, name = registry.ledger.entries(), f"{registry.model} version {number}"
    if number == champion:
        raise SegopsError(f"{name} is champion already: there is nothing to approve.")
    why = releases.read(entries).withdrawn.get(number)
    if why is not None:
        raise SegopsError(
            f"{name} was withdrawn: {why} `segops reinstate {number} --reason WHY` undoes that, "
            "and the gate decides anew."
        )
    decided = last_decision(entries, number)
    if decided is None or decided.verdict != "candidate":
        known = ", ".join(one.version for one in waiting(entries, champion)) or "none"
        raise SegopsError(
            f"{name} is no candidate: the ledger's last decision on it is "
            f"{decided.verdict if decided else 'none'} (candidates: {known})."
        )
    if decided.details["champion"] != champion:
        raise SegopsError(
            f"{name} was compared with champion {decided.details['champion'] or '(none)'}, and "
            f"{champion or '(none)'} is champion now. `segops promote` decides anew, in a "
            f"workspace that holds version {number}."
        )
    return decided


def _require_intact(registry: Registry, version: Version, digest: str) -> None:
    with files.scratch() as scratch:
        try:
            artifact.checked_bundle(registry.store, registry.model, version.number, digest, scratch)
        except (MlflowException, OSError) as error:
            raise SegopsError(
                f"{registry.model} version {version.number} cannot be fetched: "
                f"{public_line(error)}. Restore its files, or approve another version."
            ) from error


def _require_other_person(
    registry: Registry, version: Version, decided: Entry, identity: Identity
) -> None:
    if decided.details["policy"].get("approve_own") is True:
        return
    tags: Mapping[str, str] = {}
    if version.run_id:
        tags = registry.store.client.get_run(version.run_id).data.tags
    names = {decided.by, version.tags.get(STARTED_BY), tags.get(STARTED_BY)} - {None, ""}
    if identity.is_one_of(str(name) for name in names):
        raise SegopsError(
            f"{registry.model} version {version.number}: {identity.words} started its run or its "
            "decision, and may not approve it. Another person approves, or the gate decides anew "
            "with gate.approve_own: true in params.yaml."
        )


def _content(model: str, decided: Entry, reason: str) -> bytes:
    """Return the approval as an in-toto statement, which a key signs."""
    predicate: dict[str, Any] = {
        "registry": decided.registry,
        "model": model,
        "version": decided.version,
        "run_id": decided.run_id,
        "decision": {
            "entry": decided.sequence,
            "sha256": files.sha256_bytes(to_line(decided)),
        },
        "reason": reason,
    }
    subject = {
        "name": f"models:/{model}/{decided.version}",
        "digest": {"sha256": decided.details["bundle_digest"]},
    }
    return statement.to_bytes(
        {
            "_type": statement.TYPE,
            "subject": [subject],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
    )
