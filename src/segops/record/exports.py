"""Keeps the exports of a bundle with its run, and fetches them again."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segops import paths
from segops.predict.bundle import bundle_digest
from segops.record import runs
from segops.record.artifact import ArtifactError
from segops.record.lineage import tag
from segops.record.stage_outputs import Results
from segops.record.tracking import Store, is_missing, public_line
from segops.runtime.errors import SegopsError, TransientError

DIRECTORY = "exports"
"""Directory in a run: below it each export lies under its digest."""
KEPT = tag("exports")
"""Tag of a run: the digests of the exports that were uploaded whole, as JSON."""


def keep(store: Store, run: Run, results: Results) -> list[str]:
    """Upload the sound exports of the workspace that the run lacks; return their names."""
    known: list[str] = json.loads(run.data.tags.get(KEPT, "[]"))
    new = []
    for name, figures in results.exports.items():
        digest = str(figures["digest"])
        directory = results.root / paths.EXPORTS / name
        if figures["error"] is not None or digest in known or not directory.is_dir():
            continue
        if bundle_digest(directory) != digest:
            raise SegopsError(
                f"{directory}: is not the export that was evaluated. `dvc repro` makes it again."
            )
        store.client.log_artifacts(run.info.run_id, str(directory), f"{DIRECTORY}/{digest}")
        new.append(name)
        known.append(digest)
        # Only now, so that what a killed upload left is uploaded again.
        runs.add_tags(store, run, {KEPT: json.dumps(known)}, overwrite=True)
    return new


def fetch(store: Store, run_id: str, digest: str, target: Path) -> Path:
    """Download an export and check its digest; no code of it is run.

    Args:
        store: The record.
        run_id: The run that it lies in.
        digest: Its digest, by the ledger.
        target: Directory of the download, which only this process uses; what is on this machine is
            copied too, so that what is checked there is what is used.

    Raises:
        ArtifactError: It is gone, or was changed.
        TransientError: It cannot be downloaded now.
    """
    name = f"the export {digest[:12]} of run {run_id}"
    target.mkdir(parents=True, exist_ok=True)
    try:
        local = Path(store.client.download_artifacts(run_id, f"{DIRECTORY}/{digest}", str(target)))
    except (MlflowException, OSError) as error:
        if is_missing(error) or isinstance(error, FileNotFoundError):
            raise ArtifactError(
                f"{name} is gone. Restore it from a backup, or use the model itself."
            ) from error
        raise TransientError(
            f"{name} cannot be fetched now: {public_line(error)}. Try again."
        ) from error
    found = bundle_digest(local)
    if found != digest:
        raise ArtifactError(
            f"{name}: its files have the digest {found[:12]}. They were changed, so that they are "
            "not run. Restore them from a backup, or use the model itself."
        )
    return local
