"""The statement of a decision on its way into the record.

It is kept in the checkout before the decision is written, so that neither a crash nor a registry
that refuses the upload loses it. :func:`segops.release.changes.publish` uploads it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from segops import __version__, files, paths
from segops.params.file import Params
from segops.record import runs
from segops.record.lineage import PREFIX, started_by
from segops.record.tracking import Store
from segops.release import statement, versions
from segops.release.chain import Entry
from segops.release.evidence import Challenger
from segops.release.gate import Decision
from segops.release.gather import Gathered
from segops.release.ledger import Ledger
from segops.release.releases import Releases

KEY = "statement"
"""Key of the details of a decision's entry: SHA-256 of the statement's archive."""
OLD_SECONDS = 3600.0
"""Age after which a kept statement that no entry names is that of a process that was killed."""


def artifact_path(entry: Entry) -> str:
    """Return the path of a decision's statement within its run."""
    return f"decisions/{entry.sequence:04d}.statement.zip"


def keep(
    store: Store,
    ledger: Ledger,
    settings: Params,
    history: Releases,
    gathered: Gathered,
    decision: Decision,
) -> Path | None:
    """Write the statement of a decision that will be the next entry of the ledger.

    Args:
        store: The record.
        ledger: The ledger, read up to the entry that the decision follows.
        settings: The parameters that it was decided with.
        history: The releases that it was decided on.
        gathered: Its evidence.
        decision: The decision.

    Returns:
        The kept file, whose name is its SHA-256; None where no version was established, which a
        statement could be about.

    Raises:
        SegopsError: The key that signs cannot be used.
        MlflowException: The registry does not answer.
    """
    challenger = gathered.evidence.challenger
    if not isinstance(challenger, Challenger):
        return None
    tags = versions.get(store, decision.model, decision.version).tags
    predicate = statement.Predicate(
        segops=__version__,
        registry=store.identity,
        model=decision.model,
        version=decision.version,
        bundle_digest=challenger.bundle_digest,
        run_id=decision.run_id,
        by=started_by(),
        # The ledger is not read again: the decision rests on what was read before it was made.
        ledger=statement.LedgerPlace(
            name=ledger.name, entry=ledger.length + 1, previous=ledger.head
        ),
        materials=statement.materials(tags, PREFIX),
        policy=settings.gate.model_dump(mode="json"),
        class_names=gathered.counts[0].class_names if gathered.counts else (),
        models=statement.described(gathered.counts),
        best=tuple(release.version for release in history.best),
        evidence=statement.shown(gathered.evidence),
        checks=tuple(statement.StatedCheck.of(check) for check in decision.checks),
        verdict=decision.verdict,
    )
    content = statement.write(predicate, gathered.counts)
    kept = _directory(ledger) / f"{files.sha256_bytes(content)}.zip"
    files.write_bytes(kept, content)
    return kept


def waiting(ledger: Ledger, entries: Sequence[Entry]) -> list[Entry]:
    """Return the decisions whose statement is kept here; remove statements of no decision.

    Args:
        ledger: The ledger.
        entries: Its entries.
    """
    kept = {path.stem: path for path in _directory(ledger).glob("*.zip")}
    if not kept:
        return []
    found = [entry for entry in entries if entry.details.get(KEY) in kept]
    for digest in kept.keys() - {entry.details[KEY] for entry in found}:
        # A younger one may be that of a process that is about to write its decision.
        if time.time() - kept[digest].stat().st_mtime > OLD_SECONDS:
            kept[digest].unlink(missing_ok=True)
    return found


def publish(store: Store, ledger: Ledger, entry: Entry) -> None:
    """Upload the statement of a decision into its run where it is kept here, and remove it here.

    A file of its name in the run is replaced: it may be another one.
    """
    kept = _kept(ledger, entry)
    if kept.is_file():
        runs.put(store, entry.run_id, artifact_path(entry), kept.read_bytes())
        kept.unlink(missing_ok=True)


def content(ledger: Ledger, entry: Entry) -> bytes | None:
    """Return the statement of a decision as it is kept here or in its run; None without one.

    It may be another than the one whose SHA-256 the entry holds.

    Raises:
        MlflowException: MLflow does not answer.
    """
    kept, path = _kept(ledger, entry), artifact_path(entry)
    if kept.is_file():
        return kept.read_bytes()
    client = ledger.store.client
    if path not in {file.path for file in client.list_artifacts(entry.run_id, "decisions")}:
        return None
    with files.scratch() as scratch:
        return Path(client.download_artifacts(entry.run_id, path, str(scratch))).read_bytes()


def _kept(ledger: Ledger, entry: Entry) -> Path:
    return _directory(ledger) / f"{entry.details.get(KEY)}.zip"


def _directory(ledger: Ledger) -> Path:
    return paths.state_home(ledger.root) / paths.STATE / "statements" / ledger.copy.stem
