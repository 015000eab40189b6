"""The state of the registered model: versions by alias and the last decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segops.params.file import load_params
from segops.record.tracking import session, tracking_uri, without_credentials
from segops.release import approval, releases, versions
from segops.release.chain import Entry
from segops.release.ledger import Ledger
from segops.release.releases import Releases
from segops.release.reproductions import machines

LAST = 10
WORDS = {"promote": "promoted to champion", "rollback": "rolled back", "restore": "restored"}
"""Change of aliases -> its description."""


@dataclass(frozen=True)
class AliasedVersion:
    """A version with an alias.

    Attributes:
        alias: `champion`, `previous` or `challenger`.
        version: Its number.
        miou: On the val of its last evaluation, within 0 to 1; None where not recorded.
        weights: The first digits of its weights' SHA-256, as on the evaluation page.
        reproduced: Names of the machines that reproduced it.
    """

    alias: str
    version: str
    miou: float | None
    weights: str
    reproduced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """A decision, or a change of aliases.

    Attributes:
        time: UTC, ISO 8601.
        what: What happened, in words.
        version: The version concerned.
        reason: The reason in words.
        by: Who or what did it.
    """

    time: str
    what: str
    version: str
    reason: str
    by: str


@dataclass(frozen=True)
class Status:
    """The state of the registered model.

    Attributes:
        model: Its name.
        versions: The versions with an alias: champion, previous, challenger.
        decisions: The last decisions in the ledger, oldest first.
        withdrawn: Version -> why a rollback withdrew it.
        candidates: Versions that wait for an approval.
        warnings: What is wrong with the registry, each a sentence.
        ledger: Where the ledger lies.
        tracking_uri: MLflow's address, without credentials.
    """

    model: str
    versions: tuple[AliasedVersion, ...]
    decisions: tuple[Event, ...]
    withdrawn: Mapping[str, str]
    candidates: tuple[str, ...]
    warnings: tuple[str, ...]
    ledger: str
    tracking_uri: str


def events(entries: Sequence[Entry]) -> list[Event]:
    """Return the events in the ledger's entries about one model, each once.

    A change of aliases has up to three entries: the decision, the intent and its end. Its event is
    made from the last of them.

    Args:
        entries: The entries, oldest first.
    """
    ends = releases.ends(entries)
    intents = {entry.sequence: entry for entry in entries if entry.kind == "intent"}
    carried_out = {entry.details.get("decision") for entry in intents.values()}
    happened = []
    for entry in entries:
        if entry.kind == "observed":
            what = "champion set by other means"
        elif entry.kind == "adopted":
            what = "champion adopted"
        elif entry.kind == "reinstated":
            what = "reinstated"
        elif entry.kind == "approved":
            what = approval.told(entry, entries[entry.details["decision"] - 1])
        elif entry.kind == "smoke":
            what = f"{entry.verdict} the smoke test"
        elif entry.kind == "reproduced":
            what = f"made again: {entry.verdict}"
        elif entry.kind == "tested":
            what = "scored on test"
        elif entry.kind == "decision":
            if entry.sequence in carried_out:
                continue
            what = "passed the gate" if entry.verdict == "promoted" else entry.verdict
        elif entry.kind == "intent":
            if entry.sequence in ends:
                continue
            what = f"{WORDS[entry.verdict]} (begun, not ended)"
        elif ends.get(entry.details["intent"]) is not entry:
            continue
        else:
            ended = " (abandoned)" if entry.kind == "abandoned" else ""
            what = f"{WORDS[entry.verdict]}{ended}"
        happened.append(Event(entry.time, what, entry.version, entry.reason, entry.by))
    return happened


def status(root: Path) -> Status:
    """Read registry and ledger.

    Args:
        root: The workspace.

    Raises:
        NoRecordError: There is no record yet.
        TransientError: MLflow does not answer.
        TamperedError: The ledger was tampered with.
    """
    settings = load_params(root).registry
    with session(root, settings, create=False) as store:
        ledger = Ledger(store, root, settings.model)
        aliases = versions.aliases(store, settings.model)
        entries = ledger.entries()
        by_number = {
            number: versions.get(store, settings.model, number) for number in aliases.values()
        }
        by_machine = machines(entries)
        aliased = tuple(
            AliasedVersion(
                alias,
                number,
                by_number[number].miou,
                by_number[number].weights[:12],
                tuple(by_machine.get(number, ())),
            )
            for alias, number in aliases.items()
        )
    history = releases.read(entries)
    return Status(
        model=settings.model,
        versions=aliased,
        decisions=tuple(events(entries)[-LAST:]),
        withdrawn=history.withdrawn,
        candidates=tuple(
            one.version for one in approval.waiting(entries, aliases.get(versions.CHAMPION))
        ),
        warnings=tuple(_warnings(entries, history, aliases.get(versions.CHAMPION))),
        ledger=f"{ledger.name} at {store.identity}, {len(entries)} entries",
        tracking_uri=without_credentials(tracking_uri(root)),
    )


def _warnings(entries: Sequence[Entry], history: Releases, champion: str | None) -> Iterator[str]:
    pending = history.pending
    if pending is not None:
        yield (
            f"{pending.by} began the {pending.verdict} of version {pending.version} at "
            f"{pending.time[:16].replace('T', ' ')} UTC and has not ended it; if that process is "
            "gone, the next `segops promote` or `segops rollback` completes it."
        )
    elif champion is None and history.champion is not None:
        yield (
            f"No version has the alias champion, the ledger names {history.champion}. `segops "
            "rollback --reason WHY` restores it; if it is not usable, the release before it."
        )
    elif champion != history.champion:
        yield (
            f"Version {champion or '(none)'} has the alias champion, the ledger names "
            f"{history.champion or 'none'}. `segops adopt` takes a champion in that was set by "
            "other means; `segops rollback` takes it back."
        )
    elif releases.untested(entries, champion) is not None:
        yield (
            f"Version {champion} is champion and has not passed its smoke test yet; `segops "
            "promote` makes the test."
        )
