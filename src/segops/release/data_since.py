"""What changed in the data between two versions, from what the record holds of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.release.ledger import Ledger
from segops.release.paired_counts import recorded_counts
from segops.release.versions import Version
from segops.report.html import percent
from segops.runtime.errors import SegopsError
from segops.words import counted

SHOWN = 4
"""Most classes whose share is told."""
log = logging.getLogger("segops")


class RecordedData:
    """What the record holds of the data of versions; each data set is asked for once.

    Args:
        ledger: The ledger of the model.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._verdicts: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, pd.DataFrame] = {}

    def verdict(self, version: Version) -> dict[str, Any]:
        """Return the validation's verdict on a version's data; empty where there is none.

        Raises:
            MlflowException: The run is gone, or MLflow does not answer.
        """
        data = version.tags.get(tag("data_hash"), "")
        if data not in self._verdicts:
            trees = map(tree, contents(self._ledger, version, paths.VERDICT))
            found = next((one for one in trees if one.get("data_hash") == data), {})
            if not found:
                return {}
            self._verdicts[data] = found
        return self._verdicts[data]

    def since(self, old: Version, new: Version) -> str | None:
        """Return how the data of two versions differ; None where they do not, or none can tell."""
        try:
            hashes = [one.tags.get(tag("data_hash")) for one in (old, new)]
            if hashes[0] == hashes[1] or not all(hashes):
                return None
            was, now = (self.verdict(one) for one in (old, new))
            if not (was and now):
                return None
            before, after = self._val(old), self._val(new)
            return words(was, now, None if before is None or after is None else (before, after))
        except (MlflowException, SegopsError, OSError, LookupError, ValueError) as error:
            log.debug("How the data of version %s differ is not known: %s", old.number, error)
            return None

    def _val(self, version: Version) -> pd.DataFrame | None:
        """Return counts on the val of a version; what they say of its truth is of every model."""
        val = version.tags.get(tag("val_hash"), "")
        if val not in self._counts:
            counts = recorded_counts(self._ledger.store, version, val)
            if counts is None:
                return None
            self._counts[val] = counts
        return self._counts[val]


def contents(ledger: Ledger, version: Version, path: Path) -> Iterator[bytes]:
    """Yield a file of the workspace, then that of the version's run, each where it is there.

    Raises:
        MlflowException: The run is gone, or MLflow does not answer.
    """
    local = ledger.root / path
    if local.is_file():
        yield local.read_bytes()
    held = read(ledger.store, version.run_id, path)
    if held is not None:
        yield held


def tree(content: bytes) -> dict[str, Any]:
    """Return a JSON object; empty where it is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read(store: Store, run_id: str, path: Path) -> bytes | None:
    """Return the content of a run's artifact, or None where it has none."""
    listed = store.client.list_artifacts(run_id, path.parent.as_posix())
    if path.as_posix() not in {file.path for file in listed}:
        return None
    with files.scratch() as scratch:
        local = store.client.download_artifacts(run_id, path.as_posix(), str(scratch))
        return Path(local).read_bytes()


def words(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    counts: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> str:
    """What changed, in one line.

    Args:
        old: The earlier version's verdict, as in ``data/verdict.json``.
        new: The later version's.
        counts: The tables of counts of both on their own val, the earlier version's first; None:
            the record lacks one. They name the images of val and count their true pixels.
    """
    return "; ".join(_parts(old, new, counts)) or "other files"


def _parts(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    counts: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> Iterator[str]:
    before, after = (one.get("images") or {} for one in (old, new))
    for split in dict.fromkeys([*after, *before]):
        was, now = before.get(split, 0), after.get(split, 0)
        if was != now:
            yield f"{was} → {now} images in {split}"
    names = new.get("classes") or ()
    if old.get("classes") != names:
        yield "other classes"
    elif counts is not None:
        yield from _val(*counts, names)


def _val(before: pd.DataFrame, after: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    old, new = (one.groupby("image_id")["image_sha256"].first() for one in (before, after))
    both = old.index.intersection(new.index)
    truth = [one.set_index(["image_id", "class_id"])["truth"] for one in (before, after)]
    differs = truth[1].sub(truth[0], fill_value=0) != 0
    labelled = both.intersection(differs[differs].index.get_level_values("image_id"))
    for number, what in (
        (len(new.index.difference(old.index)), "added"),
        (len(old.index.difference(new.index)), "removed"),
        (int((old[both] != new[both]).sum()), "with another photograph"),
        (len(labelled), "with other labels"),
    ):
        if number:
            yield f"{counted(number, 'image')} of val {what}"
    shares = [one.groupby("class_id").sum() / one.sum() for one in truth]
    change = shares[1].sub(shares[0], fill_value=0).abs().round(9)
    change = change.sort_values(ascending=False, kind="stable")
    told = [
        f"{names[int(label)]} {' → '.join(percent(one.get(label, 0.0)) for one in shares)}"
        for label in change[change > 0].index[:SHOWN]
    ]
    if told:
        yield f"true pixels of val: {', '.join(told)}"
