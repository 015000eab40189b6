"""Removes what interrupted uploads left in MLflow."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from segops import paths
from segops.record.moved import ARTIFACTS
from segops.record.tracking import LOCAL, Store, locked

NOT_READY = f"status != {LoggedModelStatus.READY.to_int()}"
"""MLflow compares with the number that it stores, not with the name."""
UPLOADING = ".artifact.uploading.*"
"""Files that MLflow renames once they are complete."""
MILLISECONDS_OF_AN_UPLOAD = 24 * 3600 * 1000
"""On a server, a model that is incomplete for longer is not being uploaded any more."""


def remove(store: Store, root: Path, run_id: str) -> None:
    """Delete incomplete models with their files, and incomplete files of a run.

    The caller holds the lock `record`, so no other process uploads to the embedded record. Other
    machines may upload to a server: there a model of another run has to be a day old.

    Raises:
        MlflowException: MLflow does not answer.
    """
    home = paths.state_home(root) / ARTIFACTS if store.identity == LOCAL else None
    began = time.time() * 1000 - MILLISECONDS_OF_AN_UPLOAD
    for model in store.client.search_logged_models([store.experiment_id], NOT_READY):
        if model.status == LoggedModelStatus.READY:
            continue
        if home or model.source_run_id == run_id or model.creation_timestamp < began:
            _delete_files(store, model, home)
            store.client.delete_logged_model(model.model_id)
    if home is not None and any((home / run_id).rglob(UPLOADING)):
        with locked(root, "registry"):  # whoever decides uploads the decision
            for path in (home / run_id).rglob(UPLOADING):
                path.unlink()


def _delete_files(store: Store, model: LoggedModel, home: Path | None) -> None:
    """Delete a model's files where they lie in the embedded record or behind a server.

    Any other address is somebody else's to clean: the record names it, and no more is known of it.
    """
    if home is not None:
        shutil.rmtree(home / "models" / model.model_id, ignore_errors=True)
    elif model.artifact_location.startswith("mlflow-artifacts:"):
        repository = get_artifact_repository(model.artifact_location, tracking_uri=store.uri)
        with suppress(MlflowException, OSError):  # a server that refuses keeps them for `mlflow gc`
            repository.delete_artifacts()  # type: ignore[no-untyped-call]
