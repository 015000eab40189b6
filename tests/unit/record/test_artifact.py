"""A bundle as an artifact of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.params.registry import RegistryParams
from segops.record.artifact import log_bundle
from segops.record.tracking import session
from segops.runtime.errors import SegopsError
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
