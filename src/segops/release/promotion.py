"""Decides, promotes and rolls back, and writes each change of an alias into the ledger.

A change takes three steps: write the intent into the ledger, set the aliases, write `done`. After a
crash the next call completes an intent without `done`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.file import Params, load_params
from segops.record import runs
from segops.record.lineage import started_by, tag
from segops.record.tracking import BusyError, Store, identity, is_missing, locked, session
from segops.release import releases, versions
from segops.release.evidence import Comparison, Evidence
from segops.release.gate import Decision, decide
from segops.release.gather import gather, unreachable
from segops.release.ledger import Entry, Ledger, finite, to_line
from segops.release.releases import Releases
from segops.release.versions import CHALLENGER, CHAMPION, PREVIOUS
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")


@dataclass(frozen=True)
class RolledBack:
    """What :func:`rollback` did.

    Attributes:
        withdrawn: The version that was champion.
        champion: The version that is champion again.
        previous: The version that a further rollback would restore, or None.
    """

    withdrawn: str
    champion: str
    previous: str | None


@dataclass(frozen=True)
class _Registry:
    """An open registry with its ledger, for one model."""

    store: Store
    ledger: Ledger
    model: str

    def history(self) -> Releases:
        return releases.read(self.ledger.entries())

    def aliases(self) -> dict[str, str]:
        return versions.aliases(self.store, self.model)


def gate(root: Path) -> Decision:
    """Decide on the workspace's registered model and write the decision into the ledger.

    The same decision on the same evidence is written once. If the registry does not answer, the
    model is rejected.

    Args:
        root: The workspace.

    Raises:
        BusyError: Another process changes the registry.
        SegopsError: The ledger was tampered with, or ``params.yaml`` is not usable.
    """
    settings = load_params(root)
    try:
        with session(root, settings.registry) as store:
            registry = _Registry(store, _ledger(root, settings), settings.registry.model)
            with locked(root, "registry"):
                _complete(registry)
                _observe(registry)
            evidence = gather(root, settings, store, registry.history())
            decision = decide(evidence, settings.gate)
            _write_down(root, settings, evidence, decision)
            if decision.version and decision.verdict != "unchanged":
                _publish(registry, decision.run_id)
    except BusyError:
        raise
    except SegopsError as error:
        _ledger(root, settings).entries()  # raises if the ledger was tampered with
        evidence = unreachable(root, str(error))
        decision = decide(evidence, settings.gate)
        _write_down(root, settings, evidence, decision)
    return decision


def promote(root: Path, decision: Decision) -> None:
    """Carry out a decision, once: `promoted` changes aliases, other verdicts change nothing.

    The challenger becomes `champion`, the old champion `previous`.

    Args:
        root: The workspace.
        decision: What :func:`gate` returned.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        SegopsError: Another version is champion than that of the decision, or the ledger's last
            decision on this version is another.
    """
    if decision.verdict != "promoted":
        return
    with _changing(root) as registry:
        now = registry.aliases()
        if now.get(CHAMPION) == decision.version:
            return
        decided = _last_decision(registry.ledger, decision.version)
        if decided is None or decided.verdict != "promoted":
            raise SegopsError(
                f"{registry.model} version {decision.version}: the ledger's last decision on it is "
                f"{decided.verdict if decided else 'none'}. `segops promote` decides again."
            )
        why = registry.history().withdrawn.get(decision.version)
        if why is not None:
            raise SegopsError(
                f"{registry.model} version {decision.version} was withdrawn by a rollback: "
                f"{why} It never comes back: train another."
            )
        if now.get(CHAMPION) != decision.champion_version:
            raise SegopsError(
                f"{registry.model}: version {now.get(CHAMPION) or '(none)'} is champion; version "
                f"{decision.version} was compared with {decision.champion_version or '(none)'}. "
                "`segops promote` decides again."
            )
        after = {PREVIOUS: now.get(CHAMPION), CHAMPION: decision.version}
        intent = registry.ledger.append(
            "intent",
            verdict="promote",
            reason=decided.reason,
            by=started_by(),
            version=decision.version,
            run_id=decision.run_id,
            details={
                "before": {alias: now.get(alias) for alias in after},
                "after": after,
                "decision": decided.sequence,
                "bundle_digest": decided.details["bundle_digest"],
                "differences": decided.details["differences"],
            },
        )
        _carry_out(registry, intent)


def rollback(root: Path, reason: str) -> RolledBack:
    """Withdraw the champion and make the previous champion champion again.

    The release before that, by the ledger, becomes `previous`. Neither a rollback nor the gate ever
    restores a withdrawn version.

    Args:
        root: The workspace.
        reason: Why; written into the ledger and into a tag of the withdrawn version.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        SegopsError: No reason is given, or there is nothing to roll back to.
    """
    if not reason.strip():
        raise SegopsError("A rollback needs a reason: segops rollback --reason 'WHY'.")
    with _changing(root) as registry:
        now, past = registry.aliases(), registry.history()
        champion = now.get(CHAMPION)
        if champion is None:
            raise SegopsError(
                f"{registry.model} has no champion: there is nothing to roll back. "
                "`segops promote` makes one."
            )
        back = now.get(PREVIOUS)
        if back is None or back == champion or back in past.withdrawn:
            back = past.before(champion)
        if back is None:
            raise SegopsError(
                f"{registry.model}: version {champion} is the only release; there is no previous "
                "version to restore. `segops run` trains a model that may replace it."
            )
        withdrawn = versions.get(registry.store, registry.model, champion)
        older = past.before(back)
        after = {PREVIOUS: older if older != champion else None, CHAMPION: back}
        intent = registry.ledger.append(
            "intent",
            verdict="rollback",
            reason=reason.strip(),
            by=started_by(),
            version=champion,
            run_id=withdrawn.run_id,
            details={
                "before": {alias: now.get(alias) for alias in after},
                "after": after,
            },
        )
        _carry_out(registry, intent)
        return RolledBack(champion, back, after[PREVIOUS])


@contextmanager
def _changing(root: Path) -> Iterator[_Registry]:
    """Lock the registry, and first complete what an interrupted process left."""
    settings = load_params(root)
    with session(root, settings.registry, create=False) as store, locked(root, "registry"):
        registry = _Registry(store, _ledger(root, settings), settings.registry.model)
        _complete(registry)
        _observe(registry)
        yield registry


def _ledger(root: Path, settings: Params) -> Ledger:
    return Ledger(root, identity(root), settings.registry.model)


def _last_decision(ledger: Ledger, version: str) -> Entry | None:
    decisions = [
        entry for entry in ledger.entries() if entry.kind == "decision" and entry.version == version
    ]
    return decisions[-1] if decisions else None


def _write_down(root: Path, settings: Params, evidence: Evidence, decision: Decision) -> None:
    """Write the decision into the workspace, and into the ledger unless it is its last line."""
    files.write_json(root / paths.DECISION, decision.model_dump(mode="json"))
    if decision.verdict == "unchanged":
        return
    compared = (evidence.champion, evidence.best)
    details = finite(
        {
            "checks": [check.model_dump(mode="json") for check in decision.checks],
            "evidence": _shown(evidence),
            "policy": settings.gate.model_dump(mode="json"),
            "champion": decision.champion_version,
            "bundle_digest": getattr(evidence.challenger, "bundle_digest", None),
            "differences": {
                reference.bundle_digest: reference.difference
                for reference in compared
                if isinstance(reference, Comparison)
            },
        }
    )
    ledger = _ledger(root, settings)
    entries = ledger.entries()
    last = next((entry for entry in reversed(entries) if entry.kind == "decision"), None)
    same = last is not None and (
        (last.version, last.verdict, last.details) == (decision.version, decision.verdict, details)
    )
    if same and last is entries[-1]:
        return
    ledger.append(
        "decision",
        verdict=decision.verdict,
        reason=decision.reason,
        by=started_by(),
        version=decision.version,
        run_id=decision.run_id,
        details=details,
    )


def _shown(evidence: Evidence) -> dict[str, Any]:
    """Return the evidence as JSON; each part names its kind."""
    tree = asdict(evidence)
    for name in ("challenger", "score", "validation", "lineage_missing", "champion", "best"):
        if isinstance(tree[name], dict):
            tree[name] = {"kind": type(getattr(evidence, name)).__name__, **tree[name]}
    return tree


def _complete(registry: _Registry) -> None:
    """Complete the intent of an interrupted process."""
    intent = registry.history().pending
    if intent is None:
        return
    before, after = (intent.details[name].get(CHAMPION) for name in ("before", "after"))
    now = registry.aliases().get(CHAMPION)
    gone = _gone(registry, after)
    if now not in (before, after) or gone:
        why = f"version {after} is gone" if gone else f"version {now or '(none)'} is champion"
        _end(registry, intent, "abandoned", f"Not completed: {why} since.")
        log.warning("The %s of line %d is abandoned: %s.", intent.verdict, intent.sequence, why)
        return
    log.warning("Completing the %s that line %d began.", intent.verdict, intent.sequence)
    _carry_out(registry, intent)


def _gone(registry: _Registry, version: str) -> bool:
    try:
        versions.get(registry.store, registry.model, version)
    except MlflowException as error:
        if is_missing(error):
            return True
        raise
    return False


def _carry_out(registry: _Registry, intent: Entry) -> None:
    """Set tags and aliases as an intent says, whether or not some are set already."""
    after: Mapping[str, str | None] = intent.details["after"]
    if intent.verdict == "rollback":
        withdrawn = versions.get(registry.store, registry.model, intent.version)
        versions.set_tags(
            registry.store, registry.model, withdrawn, {versions.WITHDRAWN: intent.reason}
        )
    for alias in (PREVIOUS, CHAMPION):
        versions.set_alias(registry.store, registry.model, alias, after[alias])
    # Keep the challenger alias unless that version was just promoted.
    if registry.aliases().get(CHALLENGER) == after[CHAMPION]:
        versions.set_alias(registry.store, registry.model, CHALLENGER, None)
    _end(registry, intent, "done", intent.reason)
    _publish(registry, intent.run_id)


def _end(registry: _Registry, intent: Entry, kind: Any, reason: str) -> None:
    registry.ledger.append(
        kind,
        verdict=intent.verdict,
        reason=reason,
        by=started_by(),
        version=intent.version,
        run_id=intent.run_id,
        details={"intent": intent.sequence},
    )


def _observe(registry: _Registry) -> None:
    """Record a champion that segops did not set, so that it counts as a release."""
    champion = registry.aliases().get(CHAMPION)
    if champion is None or champion == registry.history().champion:
        return
    version = versions.get(registry.store, registry.model, champion)
    registry.ledger.append(
        "observed",
        verdict="observed",
        reason=f"Version {champion} has the alias champion; segops did not set it.",
        by=started_by(),
        version=champion,
        run_id=version.run_id,
        details={"bundle_digest": version.bundle_digest},
    )


def _publish(registry: _Registry, run_id: str) -> None:
    """Copy the ledger's lines about a run into the run. Only the ledger itself decides."""
    entries = [entry for entry in registry.ledger.entries() if entry.run_id == run_id]
    if not run_id or not entries:
        return
    client = registry.store.client
    try:
        held = {file.path for file in client.list_artifacts(run_id, "decisions")}
        for entry in entries:
            path = f"decisions/{entry.sequence:04d}.json"
            if path not in held:
                runs.put(registry.store, run_id, path, to_line(entry) + b"\n")
        decisions = [entry for entry in entries if entry.kind == "decision"]
        if decisions:
            last = decisions[-1]
            tags = {tag("decision"): last.verdict, tag("decision_reason"): last.reason}
            runs.add_tags(registry.store, client.get_run(run_id), tags, overwrite=True)
            version = versions.get(registry.store, registry.model, last.version)
            versions.set_tags(registry.store, registry.model, version, tags)
    except MlflowException as error:
        log.warning("The ledger's lines could not be copied to MLflow: %s", error)
