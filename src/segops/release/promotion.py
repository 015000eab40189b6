"""Decides on the workspace's model and promotes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segops import files, paths
from segops.params.file import Params, load_params
from segops.predict.bundle import TORCH
from segops.record.lineage import started_by
from segops.record.stage_outputs import parity_of
from segops.record.tracking import BusyError, session
from segops.release import exports, pairing, releases, signing, versions
from segops.release.chain import Entry, TamperedError, finite
from segops.release.changes import Registry, change, changing, open_registry, prepared, publish
from segops.release.evidence import Comparison, Evidence
from segops.release.gate import Decision, decide
from segops.release.gather import Gathered, gather, unreachable
from segops.release.kept_statements import KEY, keep
from segops.release.ledger import MovedError
from segops.release.statement import shown
from segops.release.versions import CANDIDATE, CHAMPION, PREVIOUS
from segops.runtime.errors import SegopsError

ROUNDS = 5
"""How often the gate decides anew because another process changed the registry meanwhile."""
MASKS = "kept_masks"
"""Detail of a decision: SHA-256 of the masks that the smoke test compares with."""
log = logging.getLogger("segops")


def gate(root: Path) -> Decision:
    """Decide on the workspace's registered model and write the decision into the ledger.

    The same decision on the same evidence is written once. The gate decides anew if another process
    writes to the ledger meanwhile. If the registry does not answer, the model is rejected.

    Args:
        root: The workspace.

    Raises:
        BusyError: Another process changes the registry.
        TamperedError: The ledger was tampered with.
        SegopsError: ``params.yaml`` or the key that signs statements is not usable.
    """
    settings = load_params(root)
    signing.signer()
    try:
        with session(root, settings.registry) as store:
            registry = open_registry(root, store, settings.registry.model)
            return _decide(registry, settings)
    except (BusyError, TamperedError, MovedError):
        raise
    except SegopsError as error:
        decision = decide(unreachable(root, settings, str(error)), settings.gate)
        files.write_json(root / paths.DECISION, decision.model_dump(mode="json"))
        return decision


def promote(root: Path, decision: Decision) -> Decision:
    """Carry out a decision, once: `promoted` and `candidate` change aliases.

    After `promoted` the challenger becomes `champion`, the old champion `previous`. After
    `candidate` it gets the alias `candidate`; :mod:`segops.release.approval` promotes it. The gate
    decides anew if the champion or the ledger changes before the aliases are set.

    Args:
        root: The workspace.
        decision: What :func:`gate` returned.

    Returns:
        The decision that was carried out.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        SegopsError: The version was withdrawn, or the ledger holds no decision on it.
    """
    for _ in range(ROUNDS):
        if decision.verdict not in ("promoted", "candidate"):
            return decision
        try:
            with changing(root) as registry:
                _carry_out(registry, decision)
            return decision
        except MovedError as error:
            log.warning("%s The gate decides anew.", error)
            decision = gate(root)
    raise BusyError(f"The registry changed during each of {ROUNDS} decisions. Try again.")


def _decide(registry: Registry, settings: Params) -> Decision:
    for _ in range(ROUNDS):
        with prepared(registry):
            pass
        entries = registry.ledger.entries()
        history = releases.read(entries)
        if history.pending is not None:
            continue  # another process began a change since: wait for it
        gathered = gather(registry.root, settings, registry.store, history)
        decision = decide(gathered.evidence, settings.gate)
        files.write_json(registry.root / paths.DECISION, decision.model_dump(mode="json"))
        if decision.verdict == "unchanged":
            publish(registry, decision.run_id)  # what an interrupted command left out
            return decision
        try:
            _write_down(registry, settings, entries, gathered, decision)
        except MovedError as error:
            log.warning("%s The gate decides anew.", error)
            continue
        if decision.version:
            publish(registry, decision.run_id)
        if decision.verdict != "candidate":
            _withdraw_candidate(registry, decision.version)
        return decision
    raise BusyError(f"The ledger changed during each of {ROUNDS} decisions. Try again.")


def _carry_out(registry: Registry, decision: Decision) -> None:
    now, entries = registry.aliases(), registry.ledger.entries()
    if now.get(CHAMPION) == decision.version:
        return
    decided = releases.last_decision(entries, decision.version)
    if decided is None or decided.verdict != decision.verdict:
        raise SegopsError(
            f"{registry.model} version {decision.version}: the ledger's last decision on it is "
            f"{decided.verdict if decided else 'none'}. `segops promote` decides again."
        )
    why = releases.read(entries).withdrawn.get(decision.version)
    if why is not None:
        raise SegopsError(
            f"{registry.model} version {decision.version} was withdrawn by a rollback: "
            f"{why} `segops reinstate {decision.version} --reason WHY` undoes that."
        )
    if now.get(CHAMPION) != decision.champion_version:
        raise MovedError(
            f"{registry.model}: version {now.get(CHAMPION) or '(none)'} is champion; version "
            f"{decision.version} was compared with {decision.champion_version or '(none)'}."
        )
    if decision.verdict == "candidate":
        versions.set_alias(registry.store, registry.model, CANDIDATE, decision.version)
        return
    change(
        registry,
        "promote",
        decision.version,
        decision.run_id,
        decided.reason,
        now,
        {PREVIOUS: now.get(CHAMPION), CHAMPION: decision.version},
        decision=decided.sequence,
        bundle_digest=decided.details["bundle_digest"],
        differences=decided.details["differences"],
        smoke_due=True,
    )


def _withdraw_candidate(registry: Registry, version: str) -> None:
    """Delete the alias `candidate` of a version that is a candidate no longer."""
    if version and registry.aliases().get(CANDIDATE) == version:
        versions.set_alias(registry.store, registry.model, CANDIDATE, None)


def _exports(root: Path, settings: Params, evidence: Evidence) -> dict[str, Any]:
    """The detail of a decision on the exports; none without exports of the challenger."""
    digest = getattr(evidence.challenger, "bundle_digest", None)
    parity = {} if digest is None else parity_of(root, digest)
    if not parity:
        return {}
    model = parity.pop(TORCH)
    return {exports.EXPORTS: exports.decided(parity, settings.gate.export, model)}


def _write_down(
    registry: Registry,
    settings: Params,
    entries: Sequence[Entry],
    gathered: Gathered,
    decision: Decision,
) -> None:
    """Write the decision after `entries`, on which it rests, unless it is the last of them."""
    evidence = gathered.evidence
    compared, masks = (evidence.champion, evidence.best), registry.root / paths.KEPT_MASKS
    details = finite(
        {
            "checks": [check.model_dump(mode="json") for check in decision.checks],
            "evidence": shown(evidence),
            "policy": settings.gate.model_dump(mode="json"),
            "champion": decision.champion_version,
            "bundle_digest": getattr(evidence.challenger, "bundle_digest", None),
            "differences": {
                reference.bundle_digest: reference.difference
                for reference in compared
                if isinstance(reference, Comparison)
            },
            "counts": {
                model.bundle_digest: pairing.digest(model.counts) for model in gathered.counts
            },
            **({MASKS: files.sha256_file(masks)} if masks.is_file() else {}),
            **_exports(registry.root, settings, evidence),
        }
    )
    if entries:
        last = entries[-1]
        same = (last.version, last.verdict) == (decision.version, decision.verdict)
        held = {name: value for name, value in last.details.items() if name != KEY}
        if last.kind == "decision" and same and exports.timeless(held) == exports.timeless(details):
            return
    history = releases.read(entries)
    kept = keep(registry.store, registry.ledger, settings, history, gathered, decision)
    try:
        registry.ledger.append(
            "decision",
            verdict=decision.verdict,
            reason=decision.reason,
            by=started_by(),
            version=decision.version,
            run_id=decision.run_id,
            details=details if kept is None else details | {KEY: kept.stem},
        )
    except MovedError:
        if kept is not None:
            kept.unlink(missing_ok=True)
        raise
