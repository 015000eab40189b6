"""Changes of aliases, each written into the ledger first.

A change takes three steps: write the intent into the ledger, set the aliases, write `done`. An
intent is a lease: until it ends or :data:`LEASE_SECONDS` pass, no other process changes an alias.
After that the next process completes it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.file import load_params
from segops.record import runs
from segops.record.lineage import started_by, tag
from segops.record.tracking import Store, is_missing, locked, session
from segops.release import kept_statements, publish_card, releases, versions
from segops.release.chain import Entry, to_line
from segops.release.earlier_ledger import take_over
from segops.release.ledger import Ledger, MovedError
from segops.release.releases import Releases
from segops.release.versions import CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS

LEASE_SECONDS = 60.0
"""How long a process waits for another one's change before it completes the change itself."""
POLL_SECONDS = 0.5
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Registry:
    """An open registry with its ledger, for one model.

    Attributes:
        root: A workspace.
        store: The record.
        ledger: The ledger of the model.
        model: Name of the registered model.
        seen: The ledger's entries that this checkout had read before it was opened.
    """

    root: Path
    store: Store
    ledger: Ledger
    model: str
    seen: tuple[Entry, ...]

    def history(self) -> Releases:
        """Return the releases as the ledger tells them; new entries are read first."""
        return releases.read(self.ledger.entries())

    def aliases(self) -> dict[str, str]:
        """Return alias -> version as the registry has them now."""
        return versions.aliases(self.store, self.model)

    @property
    def writer(self) -> str:
        """Tells main checkouts apart, without naming host and path."""
        home = f"{socket.gethostname()}\0{paths.state_home(self.root)}"
        return files.sha256_bytes(home.encode())[:12]


def open_registry(root: Path, store: Store, model: str) -> Registry:
    """Return the registry of an open record."""
    ledger = Ledger(store, root, model)
    return Registry(root, store, ledger, model, tuple(ledger.last_seen()))


@contextmanager
def changing(root: Path) -> Iterator[Registry]:
    """Open a registry that exists for a change; see :func:`prepared`."""
    with looking(root) as registry, prepared(registry):
        yield registry


@contextmanager
def looking(root: Path) -> Iterator[Registry]:
    """Open a registry that exists, and change nothing."""
    settings = load_params(root).registry
    with session(root, settings, create=False) as store:
        yield open_registry(root, store, settings.model)


@contextmanager
def prepared(registry: Registry) -> Iterator[None]:
    """Keep other processes of this main checkout from changing the registry.

    First take over an old ledger, complete a change that a process began and did not end, note a
    champion that segops did not set, and copy statements to MLflow that are kept here.

    Args:
        registry: The registry.

    Raises:
        BusyError: Another process of this main checkout changes the registry.
        TamperedError: The ledger was tampered with.
    """
    with locked(registry.root, "registry"):
        take_over(registry.ledger)
        _complete(registry)
        _observe(registry)
        for entry in kept_statements.waiting(registry.ledger, registry.ledger.entries()):
            publish(registry, entry.run_id)
        yield


def change(
    registry: Registry,
    verdict: Literal["promote", "restore", "rollback"],
    version: str,
    run_id: str,
    reason: str,
    before: Mapping[str, str],
    after: Mapping[str, str | None],
    *,
    by: str | None = None,
    **details: Any,
) -> None:
    """Write an intent after the last entry that was read, and carry it out.

    Args:
        registry: The registry, within :func:`prepared`.
        verdict: The action.
        version: The version that is promoted, restored or withdrawn.
        run_id: Its run.
        reason: The reason in words.
        before: The aliases that the change was decided on.
        after: The aliases `champion` and `previous` after the change; None deletes an alias.
        by: Who does it; None: who started this process.
        details: Further details of the ledger's entry.

    Raises:
        MovedError: Another process wrote to the ledger since it was read, or an alias was moved.
    """
    intent = registry.ledger.append(
        "intent",
        verdict=verdict,
        reason=reason,
        by=by or started_by(),
        version=version,
        run_id=run_id,
        details={
            "before": {alias: before.get(alias) for alias in after},
            "after": dict(after),
            "writer": registry.writer,
            **details,
        },
    )
    _carry_out(registry, intent)


def publish(registry: Registry, run_id: str) -> None:
    """Copy the ledger's entries about a run into the run. Only the ledger itself decides."""
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
            kept_statements.publish(registry.store, registry.ledger, entry)
        decisions = [entry for entry in entries if entry.kind == "decision"]
        if decisions:
            last = decisions[-1]
            tags = {tag("decision"): last.verdict, tag("decision_reason"): last.reason}
            runs.add_tags(registry.store, client.get_run(run_id), tags, overwrite=True)
            version = versions.get(registry.store, registry.model, last.version)
            versions.set_tags(registry.store, registry.model, version, tags)
            publish_card.publish(registry.ledger, version, load_params(registry.root).registry.card)
    except (MlflowException, OSError) as error:
        log.warning(
            "The ledger's entries could not be copied to MLflow: %s. The next command that changes "
            "the registry copies them.",
            error,
        )


def _complete(registry: Registry) -> None:
    """Complete a change that its process did not end; wait first if that process may be alive."""
    intent = registry.history().pending
    end = time.monotonic() + LEASE_SECONDS
    if intent is not None and intent.details.get("writer", registry.writer) != registry.writer:
        log.info("Waiting for the %s that %s began.", intent.verdict, intent.by)
    # This process holds the lock of its main checkout: a writer from here is gone.
    while intent is not None and intent.details.get("writer", registry.writer) != registry.writer:
        if time.monotonic() > end:
            break
        time.sleep(POLL_SECONDS)
        now = registry.history().pending
        if now is not None and now.sequence != intent.sequence:
            end = time.monotonic() + LEASE_SECONDS
        intent = now
    if intent is None:
        return
    log.warning("Completing the %s that entry %d began.", intent.verdict, intent.sequence)
    try:
        _carry_out(registry, intent)
    except MovedError as error:
        log.warning("%s", error)


def _carry_out(registry: Registry, intent: Entry) -> None:
    """Set tags and aliases as an intent says, whether or not some are set already.

    Raises:
        MovedError: The intent was ended by another process, or abandoned here because the version
            is gone or an alias was moved by other means.
    """
    before: Mapping[str, str | None] = intent.details["before"]
    after: Mapping[str, str | None] = intent.details["after"]
    _require_pending(registry, intent)
    champion = after[CHAMPION]
    if champion is not None and is_gone(registry, champion):
        _abandon(registry, intent, f"version {champion} is gone")
    # MLflow cannot compare and set an alias, so it is looked at right before and right after.
    now = registry.aliases().get(CHAMPION)
    if now not in (before.get(CHAMPION), champion):
        _abandon(registry, intent, f"version {now or '(none)'} is champion since")
    versions.set_alias(registry.store, registry.model, CHAMPION, champion)
    now = registry.aliases().get(CHAMPION)
    _require_pending(registry, intent)
    if now != champion:
        _abandon(registry, intent, f"version {now or '(none)'} was made champion meanwhile")
    previous = after[PREVIOUS]
    if previous is not None and is_gone(registry, previous):
        previous = None
    versions.set_alias(registry.store, registry.model, PREVIOUS, previous)
    if intent.verdict == "rollback" and not is_gone(registry, intent.version):
        withdrawn = versions.get(registry.store, registry.model, intent.version)
        versions.set_tags(
            registry.store, registry.model, withdrawn, {versions.WITHDRAWN: intent.reason}
        )
    # Keep these aliases unless their version was just promoted.
    for alias in (CHALLENGER, CANDIDATE) if champion is not None else ():
        if registry.aliases().get(alias) == champion:
            versions.set_alias(registry.store, registry.model, alias, None)
    _end(registry, intent, "done", intent.reason)
    publish(registry, intent.run_id)


def _require_pending(registry: Registry, intent: Entry) -> None:
    """Require that no other process took the lease over; if one did, mend what was set since."""
    history = registry.history()
    if history.pending is not None and history.pending.sequence == intent.sequence:
        return
    if history.pending is None and history.champion is not None:
        versions.set_alias(registry.store, registry.model, CHAMPION, history.champion)
    raise MovedError(
        f"{registry.ledger.where}: another process ended the {intent.verdict} that entry "
        f"{intent.sequence} began, after it had rested for {LEASE_SECONDS:.0f} s."
    )


def _abandon(registry: Registry, intent: Entry, why: str) -> None:
    _end(registry, intent, "abandoned", f"Not completed: {why}.")
    _observe(registry)
    raise MovedError(f"The {intent.verdict} of entry {intent.sequence} is abandoned: {why}.")


def is_gone(registry: Registry, version: str) -> bool:
    """Whether the registry answers that there is no such version."""
    try:
        versions.get(registry.store, registry.model, version)
    except MlflowException as error:
        if is_missing(error):
            return True
        raise
    return False


def _end(registry: Registry, intent: Entry, kind: Literal["done", "abandoned"], why: str) -> None:
    registry.ledger.append(
        kind,
        verdict=intent.verdict,
        reason=why,
        by=started_by(),
        version=intent.version,
        run_id=intent.run_id,
        details={"intent": intent.sequence},
        again=True,
    )


def _observe(registry: Registry) -> None:
    """Write down a champion that segops did not set, once."""
    while True:
        # Read before the alias: if another process changes both meanwhile, the append fails.
        history = registry.history()
        champion = registry.aliases().get(CHAMPION)
        if history.pending is not None or champion in (None, history.champion, history.observed):
            return
        version = versions.get(registry.store, registry.model, str(champion))
        with suppress(MovedError):
            registry.ledger.append(
                "observed",
                verdict="observed",
                reason=f"Version {champion} has the alias champion; segops did not set it.",
                by=started_by(),
                version=str(champion),
                run_id=version.run_id,
                details={"bundle_digest": version.bundle_digest},
            )
            return
