"""What the server does with the news of the registry."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from segops.predict.bundle import bundle_digest
from segops.serve.metrics import Metrics
from segops.serve.pool import Limits, Pool, Source
from segops.serve.serving import Serving
from segops.serve.settings import Settings
from tests.support.prediction_server import write_model


@pytest.mark.parametrize("is_understood", [True, False])
def test_a_version_that_cannot_be_served_is_refused(
    tmp_path: Path, is_understood: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One has another digest than the registry said; the other an unknown model.json."""
    new = tmp_path / "new"
    digest, sentence = write_model(new, seed=1), "expected 0000"
    if is_understood:
        digest = "0" * 64
    else:
        (new / "model.json").write_text("{}")
        digest, sentence = bundle_digest(new), "KeyError"
    pool = Pool("none", ("cpu",), Limits(), None)
    before = {
        "main": Source(str(tmp_path / "before"), "digest", {"name": "segops", "version": "1"})
    }
    pool.models = before
    metrics = Metrics(pool)
    serving = Serving(Settings("models:/segops@champion", root=tmp_path), pool, metrics, tmp_path)
    told = {"name": "segops", "version": "2", "digest": digest}
    news = {"key": "main", "directory": str(new), "told": told}
    with caplog.at_level(logging.ERROR):
        asyncio.run(serving._hear(news))
    assert "segops version 2 is not served" in caplog.text
    assert sentence in caplog.text
    assert pool.models == before
    assert b'segops_model_changes_total{outcome="refused"} 1' in metrics.text()
    assert not new.exists()
