"""Writes the model card of a version into its description and into its run."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.registry import CardParams
from segops.record import runs
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.record.update import EVALUATED_AS
from segops.release import releases, reproductions, versions
from segops.release.card import Facts, description, page, worst_classes
from segops.release.chain import Entry
from segops.release.data_since import RecordedData, contents, read, tree
from segops.release.ledger import Ledger
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
        held = read(store, version.run_id, paths.EVALUATION_PAGE)
        shown = pictures((held or b"").decode(errors="replace"), worst_classes(evaluation))
    decision = releases.last_decision(entries, version.number)
    data = RecordedData(ledger)
    facts = Facts(
        model=ledger.model,
        number=version.number,
        tags={**run.data.tags, **version.tags},
        params=run.data.params,
        epochs=run.data.metrics,
        verdict=data.verdict(version),
        evaluation=evaluation,
        data_since=_data_since(ledger, version, data, decision),
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
    for content in contents(ledger, version, paths.EVALUATION):
        if files.sha256_bytes(content) == version.tags.get(EVALUATED_AS):
            return tree(content)
    return {}


def _data_since(
    ledger: Ledger, version: Version, data: RecordedData, decision: Entry | None
) -> tuple[str, str] | None:
    """Return the champion before the version and how its data differ; None where nothing is known.

    A card does without it where the record of the champion cannot be read.
    """
    champion = decision and decision.details.get("champion")
    champion = champion or releases.read(ledger.entries()).before(version.number)
    if champion is None:
        return None
    try:
        old = versions.get(ledger.store, ledger.model, champion)
    except MlflowException as error:
        log.debug("How the data of version %s differ is not known: %s", champion, error)
        return None
    changed = data.since(old, version)
    return None if changed is None else (champion, changed)
