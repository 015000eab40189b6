"""The history of a registered model: all its versions, what was decided, and what changed.

All figures are those of the record: the gate's comparisons stand in the ledger, scores and lineage
in the versions' tags, parameters at MLflow's logged models. Nothing is scored again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from segops.metrics.catalogue import number_at
from segops.metrics.iou import Difference
from segops.params.file import load_params
from segops.params.registry import RegistryParams
from segops.record.artifact import DIGEST
from segops.record.lineage import LIBRARIES, PATCH_FIELD, tag
from segops.record.tracking import Store, identity, session
from segops.release import approval, releases, versions
from segops.release.chain import Entry
from segops.release.data_since import RecordedData
from segops.release.ledger import Ledger, of_others
from segops.release.status import Event, events
from segops.release.versions import CHAMPION, Version
from segops.report.history_page import Change, HistoryPage, Moment, VersionRow, write_history_page
from segops.runtime.errors import SegopsError

PAGE = Path("reports/history.html")
AT_ONCE = 100
"""Logged models of a page of MLflow's answer."""
SAME_MIOU = 1e-6
"""Largest difference by rounding between the mIoU in a version's tags and that of a decision."""
NOT_THERE = "not there"
MACHINE = ("device", "gpu", "precision")
SOFTWARE = ("python", *LIBRARIES)


@dataclass(frozen=True)
class _Case:
    """A version with all that the history tells of it.

    Attributes:
        number: The version.
        held: What the registry holds of it; None where it is gone.
        registered: When it was registered, UTC, ISO 8601; None where it is gone.
        params: Its parameters as MLflow spells them; None where the record has none.
        decision: The decision that made it champion, else the last one on it, or None.
    """

    number: str
    held: Version | None = None
    registered: str | None = None
    params: Mapping[str, str] | None = None
    decision: Entry | None = None


def history(root: Path, page: Path) -> HistoryPage:
    """Read the history of the workspace's registered model and write its page.

    Args:
        root: The workspace.
        page: The HTML file to write.

    Raises:
        NoRecordError: There is no record yet.
        TransientError: MLflow does not answer.
        TamperedError: The ledger was tampered with.
        SegopsError: The model has no version.
    """
    settings = load_params(root).registry
    with session(root, settings, create=False) as store:
        found = _read(root, store, settings)
    write_history_page(page, found)
    return found


def _read(root: Path, store: Store, settings: RegistryParams) -> HistoryPage:
    ledger = Ledger(store, root, settings.model)
    entries = ledger.entries()
    entities = {str(one.version): one for one in versions.listed(store, settings.model)}
    numbers = sorted({*entities, *(one.version for one in entries if one.version)}, key=int)
    if not numbers:
        raise SegopsError(_nothing(root, store, settings.model))
    champion = versions.aliases(store, settings.model).get(CHAMPION)
    states = _states(entries, champion)
    happened: dict[str, list[Event]] = defaultdict(list)
    for event in events(entries):
        happened[event.version].append(event)
    cases = _cases(store, entries, entities, numbers)
    data = RecordedData(ledger)
    rows = []
    for place, case in enumerate(cases.values()):
        compared = _compared(case.decision)
        before = compared or (numbers[place - 1] if place else None)
        changes: tuple[Change, ...] = ()
        if before is not None:
            old = cases.get(before, _Case(before))
            changes = tuple(_changes(old, case, data.since))
        rows.append(_row(case, states.get(case.number, "not decided"), before, changes,
                         happened[case.number]))  # fmt: skip
    return HistoryPage(
        model=settings.model,
        rows=tuple(rows),
        ledger=f"{ledger.name} at {store.identity}, {len(entries)} entries",
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _cases(
    store: Store,
    entries: Sequence[Entry],
    entities: Mapping[str, ModelVersion],
    numbers: Sequence[str],
) -> dict[str, _Case]:
    """Return all that is told of each version, the first one first."""
    held = {number: versions.of_entity(one) for number, one in entities.items()}
    params = _params(store, {_bundle(one) for one in held.values()})
    cases = {}
    for number in numbers:
        decision = releases.deciding(entries, number)
        cases[number] = _Case(number, decision=decision)
        if number in held:
            made = datetime.fromtimestamp(entities[number].creation_timestamp / 1000, UTC)
            cases[number] = _Case(
                number,
                held[number],
                made.isoformat(timespec="minutes"),
                params.get(_bundle(held[number])),
                decision,
            )
    return cases


def _nothing(root: Path, store: Store, model: str) -> str:
    """Return what to say where neither registry nor ledger names a version."""
    others = [one.name for one in of_others(root, identity(root))]
    elsewhere = (
        f" This checkout has copies of ledgers of other registries ({', '.join(others)}): set "
        "MLFLOW_TRACKING_URI to the address of the one that is meant."
        if others
        else ""
    )
    return (
        f"{model}: the registry at {store.identity} has no version of it, and the ledger names "
        f"none. `segops promote` registers the workspace's model.{elsewhere}"
    )


def _states(entries: Sequence[Entry], champion: str | None) -> dict[str, str]:
    """Return version -> what became of it, in words, by the ledger and the champion's alias."""
    past = releases.read(entries)
    passed = {"promoted": "passed the gate", "candidate": "passed the gate"}
    found = {
        entry.version: passed.get(entry.verdict, entry.verdict)
        for entry in entries
        if entry.kind == "decision"
    }
    found |= {one.version: "candidate" for one in approval.waiting(entries, champion)}
    found |= dict.fromkeys(past.digests, "released")
    found |= dict.fromkeys(past.withdrawn, "withdrawn")
    return found if champion is None else found | {champion: "champion"}


def _bundle(version: Version) -> tuple[str, str]:
    """Return run and digest of a version's artifact, by which its logged model is found.

    MLflow's databases do not keep the logged model's id with the version.
    """
    return version.run_id, version.bundle_digest


def _params(
    store: Store, bundles: set[tuple[str, str]]
) -> dict[tuple[str, str], Mapping[str, str]]:
    """Return the parameters of bundles, from :data:`AT_ONCE` logged models to a query."""
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    token: str | None = None
    while bundles - found.keys() and store.experiment_id:
        page = store.client.search_logged_models(
            [store.experiment_id], max_results=AT_ONCE, page_token=token
        )
        for one in page:
            bundle = str(one.source_run_id or ""), one.tags.get(DIGEST, "")
            if bundle in bundles and one.params:
                found[bundle] = one.params
        token = page.token
        if not token:
            break
    return found


def _evidence(decision: Entry | None, part: str) -> Mapping[str, Any]:
    """Return a part of a decision's evidence; empty where it has none."""
    value = None if decision is None else decision.details.get("evidence")
    value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _compared(decision: Entry | None) -> str | None:
    """Return the champion that the gate held a version against, or None."""
    number = None if decision is None else decision.details.get("champion")
    return None if number is None or decision is None or number == decision.version else str(number)


def _difference(decision: Entry | None) -> Difference | None:
    """Return the gate's difference to the champion of its time with both bounds, or None."""
    compared = _evidence(decision, "champion")
    parts = [number_at(compared, one) for one in ("difference", "low", "high")]
    return None if None in parts else Difference(*(float(one or 0) for one in parts))


def _row(
    case: _Case, state: str, before: str | None, changes: tuple[Change, ...], happened: list[Event]
) -> VersionRow:
    tags = {} if case.held is None else case.held.tags
    stated, decided = _share(tags, "miou"), number_at(_evidence(case.decision, "score"), "miou")
    # A later evaluation, on other data, replaces the tags; the decision keeps its own figure.
    same = decided is None or stated is None or abs(stated - decided) <= SAME_MIOU
    val = _evidence(case.decision, "score").get("val_hash") or tags.get(tag("val_hash"), "")
    return VersionRow(
        number=case.number,
        registered=case.registered or (happened[0].time if happened else ""),
        by=tags.get(tag("started_by"), ""),
        state=state,
        is_gone=case.held is None,
        miou=stated if decided is None else decided,
        low=_share(tags, "miou_low") if same else None,
        high=_share(tags, "miou_high") if same else None,
        val=str(val),
        weights="" if case.held is None else case.held.weights,
        before=before,
        compared=_compared(case.decision),
        difference=_difference(case.decision),
        images=number_at(_evidence(case.decision, "champion"), "images"),
        changes=changes,
        moments=tuple(Moment(one.time, one.what, one.by, one.reason) for one in happened),
    )


def _share(tags: Mapping[str, str], name: str) -> float | None:
    """Return a score of a version's tags; None where it is no number within 0 to 1."""
    try:
        value = float(tags.get(tag(name), ""))
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _changes(
    old: _Case,
    new: _Case,
    since: Callable[[Version, Version], str | None],
) -> Iterator[Change]:
    """Yield what differs between two versions: parameters, data, code, software, machine."""
    if old.held is None or new.held is None:
        gone = [one.number for one in (old, new) if one.held is None]
        yield Change("unknown", "", f"version {' and '.join(gone)} is gone from the registry")
        return
    before, after = old.held.tags, new.held.tags
    if old.held.weights and old.held.weights == new.held.weights:
        yield Change("weights", "", "the same, packaged again")
    yield from _changed_params(old, new)
    data = [one.get(tag("data_hash")) or NOT_THERE for one in (before, after)]
    if data[0] != data[1]:
        words = since(old.held, new.held) or " → ".join(one[:12] for one in data)
        yield Change("data", "", words)
    codes = [
        (one.get(tag("code_commit")) or NOT_THERE, one.get(tag(PATCH_FIELD), ""))
        for one in (before, after)
    ]
    if codes[0] != codes[1]:
        yield Change("code", "", " → ".join(_code(*one) for one in codes))
    for kind, names in (("software", SOFTWARE), ("machine", MACHINE)):
        for name in names:
            values = [one.get(tag(name)) or NOT_THERE for one in (before, after)]
            if values[0] != values[1]:
                yield Change(kind, name, " → ".join(values))


def _changed_params(old: _Case, new: _Case) -> Iterator[Change]:
    if old.params is None or new.params is None:
        lacking = [one.number for one in (old, new) if one.params is None]
        yield Change("parameters", "", f"those of version {' and '.join(lacking)} are not recorded")
        return
    was, now = old.params, new.params
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            yield Change(
                "parameters", name, f"{was.get(name, NOT_THERE)} → {now.get(name, NOT_THERE)}"
            )


def _code(commit: str, patch: str) -> str:
    changed = f" with uncommitted changes ({patch[:6]})" if patch else ""
    return f"{commit[:10]}{changed}"
