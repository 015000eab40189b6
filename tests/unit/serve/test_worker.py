"""What a worker logs of its predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.export import make
from segops.monitor import sample as samples
from segops.predict.bundle import bundle_digest, load_bundle
from segops.predict.folder import predict_folder
from segops.predict.log import PredictionLog, read_log
from segops.predict.observe import observe
from segops.serve.wanted import Wanted
from segops.serve.worker import Worker
from tests.support.folder_runs import make_bundle, picture, save

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_the_lines_of_an_export_are_those_of_its_model(tmp_path: Path) -> None:
    bundle, log = make_bundle(tmp_path / "bundle"), tmp_path / "log"
    digest = make.export(bundle, {"onnx": tmp_path / "onnx"})["onnx"]
    model = bundle_digest(bundle)
    assert digest != model
    worker = Worker("cpu", 1)
    load = {"do": "load", "key": "main", "directory": str(tmp_path / "onnx"), "digest": digest}
    assert worker.answer(load | {"max_pixels": 10_000, "log": str(log)}, []) == ({}, [])
    image = save(tmp_path / "photos/a.png", 1)
    ask = {"do": "predict", "key": "main", "name": "a.png", "wanted": vars(Wanted())}
    assert worker.answer(ask, [image.read_bytes()])[0]["confidence"] > 0
    image.unlink()
    save(tmp_path / "photos/b.png", 2)
    predict_folder(tmp_path / "photos", tmp_path / "onnx", tmp_path / "out", observations=log)
    PredictionLog(log, "another").add(observe(picture(3)), "c.png")
    sample = samples.of_log(load_bundle(bundle), model, log)
    assert (sample.total, len(sample.images), sample.others) == (2, 2, 1)
    kept = [one.observation.predicted for one in read_log(log) if one.model == model]
    assert [one is not None and one.embedding is None for one in kept] == [True, True]
