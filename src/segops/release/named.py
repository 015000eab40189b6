"""Which registered versions something names: an alias, the ledger, a pin, a later training."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.exceptions import MlflowException

from segops.params.registry import LEDGER_SUFFIX
from segops.record import runs
from segops.record.lineage import START_FIELD, TEACHER_FIELD, tag
from segops.record.pretraining import ENCODER
from segops.record.tracking import Store, is_missing
from segops.release import releases, versions
from segops.release.chain import Entry, TamperedError
from segops.release.earlier_ledger import not_taken_over
from segops.release.ledger import Ledger
from segops.release.versions import Version

PIN = tag("pin")
"""Tag with which a person keeps a version; its value says why."""
REFUSED = "refused"
"""Reason of a version of which the ledger says nothing but that the gate did not promote it."""
NOT_OURS = "not registered by segops"
"""Reason of a version that somebody else registered: it is not segops' to remove."""
COPIED = re.compile("models:/(?!m-[0-9a-f]{32}$)")
"""Address of a version that somebody copied from another one, with its tags."""
NEEDED = {START_FIELD: "start", TEACHER_FIELD: "teacher"}
"""Field of a version's lineage that holds the weights or the bundle of another version, without
which it cannot be made again -> what that version is to it."""
PAGE = 500
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Held:
    """A version of a registered model.

    Attributes:
        model: Name of the registered model.
        version: The version.
        created: When it was registered, in seconds since 1970.
        source: Address of its artifact.
        names: What names it, in words; empty: nothing does.
    """

    model: str
    version: Version
    created: float
    source: str
    names: tuple[str, ...]

    @property
    def is_in_use(self) -> bool:
        """Whether an alias or a person names it."""
        return any(name.startswith(("alias ", "pinned")) for name in self.names)

    @property
    def is_only_refused(self) -> bool:
        """Whether nothing but decisions of the gate against it name it."""
        return self.names == (REFUSED,)


def held(store: Store, root: Path) -> list[Held]:
    """Return all versions of all registered models, each with what names it.

    Where a ledger was tampered with, it counts as naming every version.

    Args:
        store: The record.
        root: A workspace.

    Raises:
        MlflowException: The registry does not answer.
    """
    found = [one for model in _models(store) for one in _of_model(store, root, model)]
    waiting = [one for one in found if one.names]
    while waiting:
        later = waiting.pop()
        for field, role in NEEDED.items():
            digest = later.version.tags.get(tag(field))
            for number, one in enumerate(found):
                held_by = (one.version.weights, one.version.bundle_digest)
                if digest and digest in held_by and not one.names:
                    words = f"{role} of {later.model} version {later.version.number}"
                    found[number] = replace(one, names=(words,))
                    waiting.append(found[number])
    return found


def addresses(store: Store, kept: Sequence[Held], notes: list[str]) -> dict[str, str]:
    """Return where MLflow keeps artifact, run and pretraining of each version.

    Args:
        store: The record.
        kept: The versions.
        notes: Gets a sentence for each part that MLflow lacks.

    Returns:
        Address -> what lies there.

    Raises:
        MlflowException: The registry does not answer.
    """
    found: dict[str, str] = {}
    for one in kept:
        words = f"{one.model} version {one.version.number}"
        try:
            number = one.version.number
            address = store.client.get_model_version_download_uri(one.model, number)
            found.setdefault(address, f"The artifact of {words}")
            if one.version.run_id:
                run = store.client.get_run(one.version.run_id)
                found.setdefault(run.info.artifact_uri, f"The run of {words}")
                if start := one.version.tags.get(tag(START_FIELD)):
                    for other in runs.tagged(store, ENCODER, start, run.info.experiment_id):
                        found.setdefault(other.info.artifact_uri, f"The pretraining of {words}")
        except MlflowException as error:
            if not is_missing(error):
                raise
            notes.append(f"{words}: MLflow lacks a part of it: {error.message}")
    return found


def _models(store: Store) -> Iterator[str]:
    token: str | None = None
    while True:
        page = store.client.search_registered_models(max_results=PAGE, page_token=token)
        for model in page:
            if not model.name.endswith(LEDGER_SUFFIX):
                yield str(model.name)
        token = page.token
        if not token:
            return


def _of_model(store: Store, root: Path, model: str) -> Iterator[Held]:
    by_version: dict[str, list[str]] = defaultdict(list)
    for alias, number in versions.aliases(store, model).items():
        by_version[number].append(f"alias {alias}")
    words = by_ledger(store, root, model)
    default = ("ledger, which was tampered with",) if words is None else ()
    for number, word in (words or {}).items():
        by_version[number].append(word)
    for entity in versions.listed(store, model):
        version = versions.of_entity(entity)
        pin = ("pinned",) if PIN in version.tags else ()
        is_ours = version.bundle_digest and not COPIED.match(str(entity.source))
        other = () if is_ours else (NOT_OURS,)
        stage = entity.current_stage  # MLflow's older way to name a version
        staged = (f"stage {stage}",) if stage in ("Staging", "Production") else ()
        names = (*by_version[version.number], *pin, *staged, *default, *other)
        yield Held(
            model, version, entity.creation_timestamp / 1000, str(entity.source), names
        )  # fmt: skip


def by_ledger(store: Store, root: Path, model: str) -> dict[str, str] | None:
    """Return what a model's ledger says of each version that it names, in one word.

    Versions that the registry no longer has are among them.

    Args:
        store: The record.
        root: A workspace.
        model: Name of the registered model.

    Returns:
        Number of the version -> the word; None where the ledger was tampered with.
    """
    ledger = Ledger(store, root, model)
    try:
        # What an earlier segops wrote is taken over by the next change of an alias.
        return _words([*ledger.entries(), *not_taken_over(ledger)])
    except TamperedError as error:
        log.warning("%s All versions of %s count as named.", error, model)
        return None


def _words(entries: list[Entry]) -> dict[str, str]:
    history = releases.read(entries)
    released = {*history.champions, *history.withdrawn, *history.digests, history.observed}
    found: dict[str, str] = {}
    for entry in entries:
        refuses = entry.kind == "decision" and entry.verdict in ("rejected", "inconclusive")
        if entry.version in released:
            found[entry.version] = "released"
        elif not refuses or entry.version not in found:
            found[entry.version] = REFUSED if refuses else "in the ledger"
        for other in _compared(entry):
            found.setdefault(other, "in the ledger")
    found.pop("", None)
    return found


def _compared(entry: Entry) -> Iterator[str]:
    """Yield the versions that an entry's change of aliases names."""
    for part in ("before", "after"):
        for number in (entry.details.get(part) or {}).values():
            if number is not None:
                yield str(number)
