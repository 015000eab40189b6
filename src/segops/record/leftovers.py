"""Removes what interrupted uploads left in MLflow, and files that a server keeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from requests import RequestException

from segops import paths
from segops.record.moved import ARTIFACTS
from segops.record.tracking import LOCAL, Store, locked

NOT_READY = f"status != {LoggedModelStatus.READY.to_int()}"
"""MLflow compares with the number that it stores, not with the name."""
UPLOADING = ".artifact.uploading.*"
"""Files that MLflow renames once they are complete."""
SECONDS_OF_AN_UPLOAD = 86400.0
"""On a server, what is older is not being uploaded any more, on whatever machine."""


def remove(store: Store, root: Path, run_id: str) -> None:
    """Delete incomplete models with their files, and incomplete files of a run.

    The caller holds the lock `record`, so no other process uploads to the embedded record. Other
    machines may upload to a server: there a model of another run has to be a day old.

    Raises:
        MlflowException: MLflow does not answer.
    """
    home = paths.state_home(root) / ARTIFACTS if store.identity == LOCAL else None
    began = 1000 * (time.time() - SECONDS_OF_AN_UPLOAD)
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
    elif is_served(store, model.artifact_location):
        with suppress(MlflowException):  # a server that refuses keeps them for `mlflow gc`
            delete_served(store, model.artifact_location)


def is_served(store: Store, address: str) -> bool:
    """Whether MLflow's server hands out the files at an address, and deletes them."""
    return store.uri.startswith("http") and address.startswith("mlflow-artifacts:")


def served_bytes(store: Store, address: str) -> int:
    """Return the size of the files at an address that :func:`is_served`; 0 where none are.

    Raises:
        MlflowException: The server refuses, or does not answer.
    """
    found, waiting = 0, [""]
    with _files(store, address) as repository:
        while waiting:
            for one in repository.list_artifacts(waiting.pop() or None):
                if one.is_dir:
                    waiting.append(one.path)
                else:
                    found += one.file_size or 0
    return found


def delete_served(store: Store, address: str) -> None:
    """Delete the files at an address that :func:`is_served`.

    Raises:
        MlflowException: The server refuses, or does not answer.
    """
    with _files(store, address) as repository:
        repository.delete_artifacts()


@contextmanager
def _files(store: Store, address: str) -> Iterator[Any]:
    """Yield what lists and deletes files; the errors of its requests become MLflow's."""
    try:
        yield get_artifact_repository(address, tracking_uri=store.uri)
    except RequestException as error:
        raise MlflowException(f"{address}: {error}") from error
