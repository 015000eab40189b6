"""The address of the record: no secret of it is shown, and what hinders writing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.params.registry import RegistryParams
from segops.record.tracking import identity, session, without_credentials
from segops.runtime.errors import SegopsError, TransientError
from tests.support.registry_workspace import put_database


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("https://user:secret@host/mlflow", "https://host/mlflow"),
        ("postgresql://user:sec/ret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://user:sec@ret@host/db?sslpassword=secret", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("sqlite:////home/me@work/mlflow.db?password=secret", "sqlite:////home/me@work/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_no_secret_of_an_address_is_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:sec/ret@127.0.0.1:9",
        "sqlite:////dev/null/mlflow.db?password=secret",
    ],
)
def test_no_secret_is_in_an_error(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SegopsError) as raised, session(tmp_path, RegistryParams()):
        pass
    assert "sec" not in str(raised.value)
    assert "sec" not in identity(tmp_path)


def test_a_database_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_database(tmp_path)
    uri = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    expected = pytest.raises(SegopsError, match="cannot be written: readonly database")
    with expected as raised, session(tmp_path, RegistryParams()):
        pass
    assert not isinstance(raised.value, TransientError), "another try does not help"
