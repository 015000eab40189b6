"""What the server does with the news of the registry."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from segops import files
from segops.predict.bundle import bundle_digest
from segops.record.artifact import ArtifactError
from segops.runtime.errors import SegopsError
from segops.serve.metrics import Metrics
from segops.serve.pool import Limits, Pool, Source
from segops.serve.registry import require_opening
from segops.serve.serving import Serving, library
from segops.serve.settings import Runtime, Settings
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


@pytest.mark.parametrize(
    ("runtime", "formats", "device", "expected"),
    [
        ("torch", "[onnx]", "cpu", "torch"),
        ("onnx", "[]", "cpu", "none"),
        ("auto", "[]", "cpu", "torch"),
        ("auto", "[onnx]", "cpu", "none"),
        ("auto", "[onnx]", "cuda:0", "torch"),
    ],
)
def test_torch_is_imported_at_once_where_it_will_run(
    tmp_path: Path, runtime: Runtime, formats: str, device: str, expected: str
) -> None:
    (tmp_path / "params.yaml").write_text(f"export: {{formats: {formats}}}\n")
    settings = Settings(
        "models:/segops@champion", root=tmp_path, runtime=runtime, devices=("cpu", device)
    )
    assert library(settings) == expected


def test_a_directory_has_its_own_runtime(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_model(bundle, seed=1)
    assert library(Settings(str(bundle))) == library(Settings(str(bundle), runtime="torch"))
    assert library(Settings(str(bundle))) == "torch"
    with pytest.raises(SegopsError, match="is of runtime torch, not onnx"):
        library(Settings(str(bundle), runtime="onnx"))
    model = files.read_json(bundle / "model.json")
    files.write_json(bundle / "model.json", model | {"format": "onnx"})
    assert library(Settings(str(bundle))) == "none"
    assert library(Settings(str(bundle), runtime="torch")) == "none"


def test_an_export_that_cannot_be_opened_leaves_no_copy(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/model.json").write_text('{"format": "onnx"}')
    with pytest.raises(ArtifactError, match="its export cannot be opened: "):
        require_opening(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
