"""Whom MLflow's server knows this process as."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from mlflow.exceptions import MlflowException

from segops.params.registry import RegistryParams
from segops.record.login import login
from segops.record.tracking import session
from segops.release.ledger import Ledger
from tests.support.mlflow_server import serving

ADMIN = ("admin", "a-password-of-16")


@pytest.mark.slow
def test_a_server_with_logins_says_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = MANAGE\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secrets = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test alone",
    }
    with serving(
        tmp_path / "server", options=("--app-name", "basic-auth"), environment=secrets
    ) as (address, _):
        for name in ("ada", "bob"):
            httpx.post(
                f"{address}/api/2.0/mlflow/users/create",
                json={"username": name, "password": f"{name}-and-a-password"},
                auth=ADMIN,
            ).raise_for_status()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "ada-and-a-password")
        with session(tmp_path, RegistryParams()) as store:
            assert login(store) == "ada"
            # The variable alone says nothing.
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
            with pytest.raises(MlflowException, match="not authenticated"):
                login(store)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "bob-and-a-password")
            assert login(store) == "bob"
            # It answers the same for a model that is missing and for one that is forbidden.
            store.client.create_registered_model("segops")
            ledger = Ledger(store, tmp_path, "segops")
            ledger.append("observed", verdict="observed", reason="", by="bob", version="1")
            assert len(ledger.entries()) == 1


@pytest.mark.long
def test_a_server_that_asks_for_no_login_knows_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "server") as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "anything")
        with session(tmp_path, RegistryParams()) as store:
            assert login(store) is None
