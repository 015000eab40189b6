"""A bundle as an artifact of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.entities import LoggedModel, LoggedModelStatus

from segops.params.registry import RegistryParams
from segops.record.artifact import ArtifactError, fetch_logged, log_bundle
from segops.record.tracking import session
from segops.runtime.errors import SegopsError, TransientError
from tests.support.loopback import serve
from tests.support.registry_workspace import put_database


def test_a_bundle_without_its_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    put_database(tmp_path)
    (tmp_path / "bundle").mkdir()
    with session(tmp_path, RegistryParams()) as store:
        run = store.client.create_run(store.experiment_id)
        with pytest.raises(SegopsError, match=r"bundle: .* lacks runtime/pyfunc_model\.py"):
            log_bundle(store, run.info.run_id, tmp_path / "bundle", "digest", {})
        assert list(store.client.search_logged_models([store.experiment_id])) == []


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, ArtifactError, "is gone"),
        (401, TransientError, "cannot be fetched now: 401"),
        (500, TransientError, "cannot be fetched now: .*500 error"),
        (None, TransientError, "cannot be fetched now: .*refused"),
    ],
)
def test_only_the_answer_that_there_is_none_makes_an_artifact_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    error: type[SegopsError],
    words: str,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    put_database(tmp_path)
    with session(tmp_path, RegistryParams()) as store, serve() as server:
        server.statuses = [status]
        address = server.address if status else "http://127.0.0.1:9"
        place = f"{address}/api/2.0/mlflow-artifacts/artifacts/m-1/artifacts"
        model = LoggedModel("1", "m-1", "segmenter", place, 0, 0, status=LoggedModelStatus.READY)
        with pytest.raises(SegopsError, match=words) as raised:
            fetch_logged(store, model, tmp_path / "target")
        assert type(raised.value) is error
