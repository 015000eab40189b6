"""Writes the model card of a version into its description and into its run."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.registry import CardParams
from segops.record import runs
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.record.update import EVALUATED_AS
from segops.release import data_since, releases, reproductions, versions
from segops.release.card import Facts, description, page, worst_classes
from segops.release.ledger import Ledger
from segops.release.paired_counts import recorded_counts
from segops.release.versions import Version
from segops.report.card_pictures import Picture, pictures
from segops.runtime.errors import SegopsError

DIRECTORY = "model_card"
"""Directory of the cards in a run; each version of the run has its own below it."""
FILE = "README.md"
WRITTEN, DESCRIBED = tag("card_sha256"), tag("card_description_sha256")
"""SHA-256 of what was written last: the card's files, and the description or :data:`EDITED`."""
EDITED = "edited"
FORMER = re.compile(r"(?:mIoU \d\.\d{3} on val when registered)?")
"""The description that an earlier segops wrote."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Card:
    """A model card.

    Attributes:
        page: The whole card.
        description: Its short form.
        pictures: The pictures that the page shows.
    """

    page: str
    description: str
    pictures: Sequence[Picture]

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> content."""
        return {FILE: self.page.encode(), **{one.file: one.content for one in self.pictures}}


def make(ledger: Ledger, version: Version, stated: CardParams) -> Card:
    """Make a version's card from its run and the ledger.

    Args:
        ledger: The ledger of the model.
        version: The version.
        stated: What the user says about the model.

    Raises:
        MlflowException: The run is gone, or MLflow does not answer.
        TamperedError: The ledger was tampered with.
        SegopsError: The pictures of the run's page are damaged.
    """
    store, entries = ledger.store, ledger.entries()
    run = store.client.get_run(version.run_id)
    evaluation = _evaluation(ledger, version)
    shown: list[Picture] = []
    if stated.pictures and evaluation:
        held = _read(store, version.run_id, paths.EVALUATION_PAGE)
        shown = pictures((held or b"").decode(errors="replace"), worst_classes(evaluation))
    decision = releases.last_decision(entries, version.number)
    champion = decision and decision.details.get("champion")
    facts = Facts(
        model=ledger.model,
        number=version.number,
        tags={**run.data.tags, **version.tags},
        params=run.data.params,
        epochs=run.data.metrics,
        verdict=_verdict(ledger, version),
        evaluation=evaluation,
        data_since=_data_since(
            ledger, version, champion or releases.read(entries).before(version.number)
        ),
        decision=decision,
        withdrawn=releases.read(entries).withdrawn.get(version.number),
        machines=reproductions.machines(entries).get(version.number, ()),
        test=releases.last_test(entries, version.number),
        stated=stated,
        pictures=shown,
    )
    return Card(page(facts), description(facts), shown)


def publish(ledger: Ledger, version: Version, stated: CardParams) -> None:
    """Bring description and card of a version up to date; a second call changes nothing.

    A description that a person edited stays. A card that cannot be made is told in the log: neither
    a registration nor a decision depends on it.

    Arguments are those of :func:`make`.
    """
    store, model = ledger.store, ledger.model
    try:
        card = make(ledger, version, stated)
        _describe(store, model, version, card.description)
        digest = files.sha256_lines([files.sha256_bytes(one) for one in card.files.values()])
        if version.tags.get(WRITTEN) != digest:
            for name, content in card.files.items():
                path = f"{DIRECTORY}/{model}-{version.number}/{name}"
                runs.put(store, version.run_id, path, content)
            store.client.set_model_version_tag(model, version.number, WRITTEN, digest)
    except (MlflowException, SegopsError, OSError) as error:
        log.warning(
            "The model card of %s version %s was not written: %s", model, version.number, error
        )


def _describe(store: Store, model: str, version: Version, text: str) -> None:
    last = version.tags.get(DESCRIBED)
    held = store.client.get_model_version(model, version.number).description or ""
    digest = files.sha256_bytes(text.encode())
    if held == text:
        pass
    elif FORMER.fullmatch(held) or files.sha256_bytes(held.encode()) == last:
        store.client.update_model_version(model, version.number, text)
    else:
        digest = EDITED
        if last != EDITED:
            log.info(
                "%s version %s: its description was edited, so it stays; `segops card %s` shows "
                "the model card.", model, version.number, version.number,
            )  # fmt: skip
    if digest != last:
        store.client.set_model_version_tag(model, version.number, DESCRIBED, digest)


def _evaluation(ledger: Ledger, version: Version) -> dict[str, Any]:
    """Return the version's evaluation; empty where the run holds that of another bundle.

    The workspace's is the same where it has the recorded digest; reading it is quicker.
    """
    for content in _contents(ledger, version, paths.EVALUATION):
        if files.sha256_bytes(content) == version.tags.get(EVALUATED_AS):
            return _tree(content)
    return {}


def _verdict(ledger: Ledger, version: Version) -> dict[str, Any]:
    """Return the validation's verdict on the version's data; empty where there is none."""
    for content in _contents(ledger, version, paths.VERDICT):
        tree = _tree(content)
        if tree.get("data_hash") == version.tags.get(tag("data_hash")):
            return tree
    return {}


def _data_since(ledger: Ledger, version: Version, champion: str | None) -> tuple[str, str] | None:
    """Return the champion before the version and how its data differ; None where nothing is known.

    A card does without it where the record of the champion cannot be read.
    """
    if champion is None:
        return None
    try:
        old = versions.get(ledger.store, ledger.model, champion)
        hashes = [one.tags.get(tag("data_hash")) for one in (old, version)]
        was, now = (_verdict(ledger, one) for one in (old, version))
        if hashes[0] == hashes[1] or not (all(hashes) and was and now):
            return None
        before, after = (
            recorded_counts(ledger.store, one, one.tags.get(tag("val_hash"), ""))
            for one in (old, version)
        )
        counts = None if before is None or after is None else (before, after)
        return champion, data_since.words(was, now, counts)
    except (MlflowException, SegopsError, OSError, LookupError, ValueError) as error:
        log.debug("How the data of version %s differ is not known: %s", champion, error)
        return None


def _contents(ledger: Ledger, version: Version, path: Path) -> Iterator[bytes]:
    """Yield a file of the workspace, then that of the run, each where it is there."""
    local = ledger.root / path
    if local.is_file():
        yield local.read_bytes()
    held = _read(ledger.store, version.run_id, path)
    if held is not None:
        yield held


def _tree(content: bytes) -> dict[str, Any]:
    """Return a JSON object; empty where it is none: what a card lacks is not stated in it."""
    try:
        tree = json.loads(content)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _read(store: Store, run_id: str, path: Path) -> bytes | None:
    """Return the content of a run's artifact, or None where it has none."""
    listed = store.client.list_artifacts(run_id, path.parent.as_posix())
    if path.as_posix() not in {file.path for file in listed}:
        return None
    with files.scratch() as scratch:
        local = store.client.download_artifacts(run_id, path.as_posix(), str(scratch))
        return Path(local).read_bytes()
