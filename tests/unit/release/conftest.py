"""A ledger in an embedded MLflow database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segops.params.registry import RegistryParams
from segops.record.tracking import session
from segops.release.ledger import Ledger
from tests.support.registry_workspace import put_database


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the embedded database, which holds the registered model and no ledger."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("segops")
    return client


@pytest.fixture
def opened(client: MlflowClient, tmp_path: Path) -> Iterator[Callable[[Path], Ledger]]:
    """Opens the ledger as another checkout would, whose copy lies in a folder of its own."""
    with session(tmp_path, RegistryParams()) as store:

        def open_ledger(root: Path) -> Ledger:
            root.mkdir(exist_ok=True)
            return Ledger(store, root, "segops")

        yield open_ledger


@pytest.fixture
def ledger(opened: Callable[[Path], Ledger], tmp_path: Path) -> Ledger:
    return opened(tmp_path)
