"""Where the registered model stands: versions by alias and the last decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segops.params.file import load_params
from segops.record.tracking import identity, session, tracking_uri, without_credentials
from segops.release import versions
from segops.release.ledger import Entry, Ledger

LAST = 10
WORDS = {"promote": "promoted to champion", "rollback": "rolled back"}
"""What is done to the aliases -> in words."""


@dataclass(frozen=True)
class AliasedVersion:
    """A version that bears an alias.

    Attributes:
        alias: `champion`, `previous` or `challenger`.
        version: Its number.
        miou: On the val that it was last evaluated on, within 0 to 1; None where not written down.
        weights: The first digits of its weights' SHA-256, as the evaluation page has them.
    """

    alias: str
    version: str
    miou: float | None
    weights: str


@dataclass(frozen=True)
class Event:
    """A decision, or a change of aliases.

    Attributes:
        time: UTC, ISO 8601.
        what: What happened, in words.
        version: The version it is about.
        reason: In words.
    """

    time: str
    what: str
    version: str
    reason: str


@dataclass(frozen=True)
class Status:
    """Where the registered model stands.

    Attributes:
        model: Its name.
        versions: Those with an alias: champion, previous, challenger.
        decisions: The last of the ledger, oldest first.
        tracking_uri: MLflow's address, without credentials.
    """

    model: str
    versions: tuple[AliasedVersion, ...]
    decisions: tuple[Event, ...]
    tracking_uri: str


def events(entries: Sequence[Entry]) -> list[Event]:
    """What the ledger's lines about one model tell, each thing that happened once.

    A change of aliases takes up to three lines: the decision, the intent and its end. It is told
    by the last of them.

    Args:
        entries: The lines, oldest first.
    """
    ends = {
        entry.details["intent"]: entry for entry in entries if entry.kind in ("done", "abandoned")
    }
    intents = {entry.sequence: entry for entry in entries if entry.kind == "intent"}
    carried_out = {entry.details.get("decision") for entry in intents.values()}
    told = []
    for entry in entries:
        if entry.kind == "observed":
            what = "champion set by other means"
        elif entry.kind == "decision":
            if entry.sequence in carried_out:
                continue
            what = "passed the gate" if entry.verdict == "promoted" else entry.verdict
        elif entry.kind == "intent":
            if entry.sequence in ends:
                continue
            what = f"{WORDS[entry.verdict]} (begun, not ended)"
        else:
            ended = " (abandoned)" if entry.kind == "abandoned" else ""
            what = f"{WORDS[entry.verdict]}{ended}"
        told.append(Event(entry.time, what, entry.version, entry.reason))
    return told


def status(root: Path) -> Status:
    """Read registry and ledger.

    Args:
        root: The workspace.

    Raises:
        NoRecordError: There is no record yet.
        TransientError: MLflow does not answer.
        SegopsError: The ledger was tampered with.
    """
    settings = load_params(root).registry
    entries = Ledger(root, identity(root), settings.model).entries()
    with session(root, settings, create=False) as store:
        aliases = versions.aliases(store, settings.model)
        found = {one: versions.get(store, settings.model, one) for one in aliases.values()}
        aliased = tuple(
            AliasedVersion(alias, one, found[one].miou, found[one].weights[:12])
            for alias, one in aliases.items()
        )
    return Status(
        settings.model,
        aliased,
        tuple(events(entries)[-LAST:]),
        without_credentials(tracking_uri(root)),
    )
