"""Where the registered model stands: versions by alias and the last decisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segops.params.file import load_params
from segops.registry import versions
from segops.registry.ledger import Ledger
from segops.registry.tracking import identity, session, tracking_uri, without_credentials

LAST = 10


@dataclass(frozen=True)
class AliasedVersion:
    """A version that bears an alias.

    Attributes:
        alias: `champion`, `previous` or `challenger`.
        version: Its number.
        miou: On the val that it was last evaluated on, within 0 to 1; None where not written down.
    """

    alias: str
    version: str
    miou: float | None


@dataclass(frozen=True)
class Event:
    """A decision, or a change of aliases.

    Attributes:
        time: UTC, ISO 8601.
        verdict: The gate's verdict, or `promote`, `rollback`, `observed`.
        version: The version it is about.
        reason: In words.
    """

    time: str
    verdict: str
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


def status(root: Path) -> Status:
    """Read registry and ledger.

    Args:
        root: The workspace.

    Raises:
        TransientError: MLflow does not answer.
        SegopsError: The ledger was tampered with.
    """
    settings = load_params(root).registry
    entries = Ledger(root, identity(root), settings.model).entries()
    with session(root, settings) as store:
        aliased = tuple(
            AliasedVersion(alias, number, versions.get(store, settings.model, number).miou)
            for alias, number in versions.aliases(store, settings.model).items()
        )
    shown = [entry for entry in entries if entry.kind != "intent"][-LAST:]
    events = tuple(Event(one.time, one.verdict, one.version, one.reason) for one in shown)
    return Status(settings.model, aliased, events, without_credentials(tracking_uri(root)))
