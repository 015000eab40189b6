"""Verifies a statement: its bytes, its signature, and the decision made again from its counts.

It needs neither MLflow nor a network nor a checkout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from segops import __version__, files
from segops.params.gate import GateParams
from segops.release import archive, pairing, signing
from segops.release import statement as statements
from segops.release.evidence import Comparison, Evidence, Identical, NoRelease, Score
from segops.release.gate import Decision, decide
from segops.release.pairing import PairedCounts
from segops.release.statement import Predicate, StatedCheck
from segops.runtime.errors import SegopsError

SAME = 1e-9
"""Largest difference by rounding between a stated figure and the one computed again."""
MOST_SHOWN = 3
DECIDED = ("verdict", "model", "version", "run_id")
_WRONG = (ValueError, ArithmeticError, RecursionError, SegopsError)
MOST_SAMPLES = 1_000_000
"""Most resamples of the bootstrap that a statement may ask for."""


class StatementError(SegopsError):
    """A statement is not what segops wrote, or does not hold; the message names the part."""


@dataclass(frozen=True)
class Verified:
    """A statement that holds.

    Attributes:
        stated: What it says.
        decision: The decision, made again from the counts.
        key: Id of the key that signed it; None where it is not signed.
        is_vouched: Whether that is the key that the caller gave.
    """

    stated: Predicate
    decision: Decision
    key: str | None
    is_vouched: bool


def verify(path: Path, key: Path | None = None) -> Verified:
    """Verify the statement in a file.

    Args:
        path: The archive.
        key: A PEM file with the public key that must have signed it; None: its own key.

    Raises:
        SegopsError: The file cannot be read, or the key is none.
        StatementError: A part of the statement was changed, or does not hold.
    """
    given = None if key is None else signing.public_key(key)
    try:
        with path.open("rb") as file:
            content = file.read(archive.LARGEST + 1)
    except OSError as error:
        raise SegopsError(f"{path}: the statement cannot be read: {error.strerror}.") from None
    return verify_bytes(content, str(path), given)


def verify_bytes(content: bytes, name: str, key: SSlibKey | None = None) -> Verified:
    """Verify the bytes of a statement's archive.

    Args:
        content: The archive.
        name: Its name, for messages.
        key: The public key that must have signed it; None: its own key.

    Raises:
        StatementError: A part of the statement was changed, or does not hold.
    """
    try:
        members, stated, used = _opened(content, key)
        models = _models(members, stated)
        decision = _again(stated, models)
    except _WRONG as error:
        raise StatementError(f"{name}: {_told(error)}.") from None
    return Verified(stated, decision, used, key is not None)


def read(content: bytes, name: str) -> Predicate:
    """Return what a statement says, without deciding again.

    Args:
        content: The archive; the caller knows its digest.
        name: Its name, for messages.

    Raises:
        StatementError: It is no statement of segops.
    """
    try:
        return _opened(content, None)[1]
    except _WRONG as error:
        raise StatementError(f"{name}: {_told(error)}.") from None


def _opened(content: bytes, key: SSlibKey | None) -> tuple[dict[str, bytes], Predicate, str | None]:
    """Return the archive's members, what is stated, and the id of the key that signed it."""
    if len(content) > archive.LARGEST:
        raise ValueError(f"it is larger than {archive.LARGEST // 2**20} MiB")
    members = archive.read(content)
    payload, used = _payload(members, key)
    return members, _predicate(payload), used


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "no statement of segops: nested too deeply"
    if isinstance(error, ArithmeticError):
        return "a number in it is too large"
    return str(error).rstrip(".")


def _payload(
    members: Mapping[str, bytes], key: SSlibKey | None
) -> tuple[dict[str, Any], str | None]:
    """Return the payload of the envelope and the id of the key that signed it."""
    if statements.STATEMENT not in members:
        raise ValueError(f"no statement of segops: the archive lacks {statements.STATEMENT}")
    tree = _json(members[statements.STATEMENT], statements.STATEMENT)
    envelope, used = signing.opened(tree), None
    if envelope.signatures:
        own = _own_key(members)
        if not signing.is_signed_with(envelope, own):
            raise ValueError(
                f"the signature fits not {statements.STATEMENT} and {statements.PUBLIC_KEY}: one "
                "of them was changed"
            )
        if key is not None and key.keyid != own.keyid:
            raise ValueError(
                f"it is signed with the key {own.keyid[:12]}, the key given is {key.keyid[:12]}"
            )
        used = own.keyid
    elif key is not None:
        raise ValueError("it is not signed, and --key demands a signature")
    return _json(envelope.payload, f"the payload of {statements.STATEMENT}"), used


def _own_key(members: Mapping[str, bytes]) -> SSlibKey:
    pem = members.get(statements.PUBLIC_KEY)
    if pem is None:
        raise ValueError(f"it is signed, and the archive lacks {statements.PUBLIC_KEY}")
    try:
        return signing.public_key_of(pem)
    except ValueError:
        raise ValueError(f"{statements.PUBLIC_KEY} is no public key") from None


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(content)
        is_own = isinstance(tree, dict) and statements.to_bytes(tree) == content
    except ValueError:
        is_own = False
    if not is_own:
        raise ValueError(f"{name} is not as segops writes it")
    return dict(tree)


def _predicate(payload: Mapping[str, Any]) -> Predicate:
    kind = (payload.get("_type"), payload.get("predicateType"))
    if kind != (statements.TYPE, statements.PREDICATE):
        raise ValueError(
            f"a statement of another format, {kind[1]}; this segops reads {statements.PREDICATE}"
        )
    stated: Predicate = statements.valid(Predicate, payload.get("predicate"), "predicate")
    if dict(payload) != statements.tree(stated):
        raise ValueError("the subject is not the version that the predicate is about")
    return stated


def _models(members: Mapping[str, bytes], stated: Predicate) -> list[PairedCounts]:
    """Return the counts in the archive, the challenger's first, each checked."""
    named = {model.member: model for model in stated.models}
    others = members.keys() - named.keys() - {statements.STATEMENT, statements.PUBLIC_KEY}
    if others:
        raise ValueError(f"the archive holds {min(others)}, which the statement does not name")
    models = []
    for member, model in named.items():
        counts = f"the counts of version {model.version} ({member})"
        if member not in members:
            raise ValueError(f"the archive lacks {counts}")
        if files.sha256_bytes(members[member]) != model.counts:
            raise ValueError(f"{counts} are not those that are stated: they were changed")
        try:
            table = pairing.from_bytes(members[member])
        except ValueError as error:
            raise ValueError(f"{counts} are not readable: {error}") from None
        if not table["class_id"].between(0, len(stated.class_names) - 1).all():
            raise ValueError(f"{counts} are of other classes than those stated")
        models.append(
            PairedCounts(
                model.version,
                model.bundle_digest,
                stated.class_names,
                frozenset(model.seen),
                table,
            )
        )
    return models


def _again(stated: Predicate, models: Sequence[PairedCounts]) -> Decision:
    """Decide again from the counts, and compare with what is stated."""
    policy: GateParams = statements.valid(GateParams, stated.policy, "policy")
    if policy.bootstrap_samples > MOST_SAMPLES:
        raise ValueError(
            f"policy.bootstrap_samples is {policy.bootstrap_samples}; at most {MOST_SAMPLES} are "
            "made again here"
        )
    before, found = _evidence(stated, models, policy)
    decision = decide(found, policy)
    wrong = [
        *_differences(
            {name: getattr(stated, name) for name in DECIDED},
            {name: getattr(decision, name) for name in DECIDED},
            "predicate",
        ),
        *_differences(
            stated.bundle_digest, getattr(found.challenger, "bundle_digest", None), "subject"
        ),
        *_differences(before, statements.shown(found), "evidence"),
        *_differing_checks(stated, decision),
    ]
    if wrong:
        shown = "; ".join(wrong[:MOST_SHOWN]) + ("; ..." if len(wrong) > MOST_SHOWN else "")
        other = "" if stated.segops == __version__ else f" (segops {stated.segops} made it)"
        raise ValueError(f"made again{other}, the decision is another: {shown}")
    return decision


def _evidence(
    stated: Predicate, models: Sequence[PairedCounts], policy: GateParams
) -> tuple[dict[str, Any], Evidence]:
    """Return the evidence as stated, and that with every figure of the counts made again."""
    compared = [
        name
        for name, part in stated.evidence.items()
        if isinstance(part, dict) and part.get("kind") == Comparison.__name__
    ]
    # A comparison without an interval holds null, which no field of it takes.
    kept = {name: part for name, part in stated.evidence.items() if name not in compared}
    parsed = statements.read_evidence(kept | {name: {"kind": "NoRelease"} for name in compared})
    before = statements.shown(parsed) | {name: stated.evidence[name] for name in compared}
    score, by_digest = parsed.score, {model.bundle_digest: model for model in models}
    if isinstance(parsed.champion, NoRelease | Identical) and "champion" not in compared:
        _require_champion(parsed, getattr(parsed.champion, "version", None))
    # The score may be unknown although the counts are known, which the comparisons need.
    if not isinstance(score, Score) and not compared:
        return before, parsed
    ours = models[0] if models else None
    digests = {score.bundle_digest} if isinstance(score, Score) else by_digest
    if ours is None or ours.version != stated.version or ours.bundle_digest not in digests:
        raise ValueError("the archive lacks the counts of the challenger")
    made: dict[str, Any] = {}
    if isinstance(score, Score):
        made["score"] = replace(score, **asdict(pairing.unseen(ours)))
    for name in compared:
        part = stated.evidence[name]
        reference = by_digest.get(str(part.get("bundle_digest")))
        if reference is None:
            raise ValueError(f"the archive lacks the counts of the {name}")
        val_hash = score.val_hash if isinstance(score, Score) else str(part.get("val_hash"))
        made[name] = pairing.compare(ours, reference, val_hash, policy)
    if "champion" in compared:
        _require_champion(parsed, made["champion"].version)
    if "best" in compared:
        others = [model for model in models[1:] if model.version in stated.best]
        for model in others:
            again = pairing.compare(ours, model, made["best"].val_hash, policy)
            if again.difference < made["best"].difference - SAME:
                raise ValueError(
                    f"version {model.version} is the best release, not {made['best'].version}"
                )
    return before, replace(parsed, **made)


def _require_champion(parsed: Evidence, version: str | None) -> None:
    if parsed.champion_version != version:
        raise ValueError("evidence.champion_version is not the version compared with")


def _differing_checks(stated: Predicate, decision: Decision) -> Iterator[str]:
    """Yield how the checks differ; a later segops may make further ones, which then pass."""
    again = {check.name: StatedCheck.of(check).model_dump() for check in decision.checks}
    named = {check.name: check.model_dump() for check in stated.checks}
    if len(named) != len(stated.checks):
        yield "checks has two of one name"
    passed = {check.name for check in decision.checks if check.passed}
    again = {name: one for name, one in again.items() if name in named or name not in passed}
    yield from _differences(named, again, "checks")


def _differences(stated: Any, found: Any, name: str) -> Iterator[str]:
    """Yield where two values differ by more than rounding."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted(stated.keys() | found.keys()):
            if key in stated and key in found:
                yield from _differences(stated[key], found[key], f"{name}.{key}")
            else:
                yield f"{name}.{key} is {'not ' if key in found else ''}stated"
    elif _is_number(stated) and _is_number(found):
        if stated != found and not math.isclose(stated, found, rel_tol=0, abs_tol=SAME):
            yield f"{name} is {stated}, the counts give {found}"
    elif stated != found:
        yield f"{name} is {stated!r}, made again {found!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
