"""What a worker decodes, predicts and logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.predict.bundle import load_bundle
from segops.predict.log import PredictionLog, read_log
from segops.predict.observe import observing
from segops.runtime.errors import SegopsError
from segops.runtime.images import decode_consumer_image
from segops.serve.answer import Model
from segops.serve.errors import RequestError
from segops.serve.replies import JSON
from segops.serve.wanted import JPEG, NPY, PNG, Wanted
from tests.support.prediction_server import picture, two_headers, write_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "segmenter"
    write_model(target, seed=1)
    return target


def test_a_second_header_does_not_enlarge_an_image(bundle: Path) -> None:
    """Pillow takes the last header of a PNG; the server's limit asks the first one."""
    content = two_headers()
    assert len(content) < 20_000
    with pytest.raises(RequestError, match="two headers") as caught:
        Model(load_bundle(bundle), max_pixels=100_000).decoded(content, "p")
    assert caught.value.status == 422
    with pytest.raises(SegopsError, match="two headers"):
        decode_consumer_image(content, "p")


def test_the_limit_is_that_of_the_server(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds for what is decoded, where the header that is read first says less."""
    monkeypatch.setattr("segops.serve.answer.stored_extent", lambda _: (1, 1))
    with pytest.raises(RequestError, match="expected at most 100") as caught:
        Model(load_bundle(bundle), max_pixels=100).decoded(picture(), "p")
    assert caught.value.status == 422


@pytest.mark.parametrize("form", [PNG, JSON, JPEG, NPY])
def test_every_form_of_answer_is_logged(bundle: Path, tmp_path: Path, form: str) -> None:
    predictor = load_bundle(bundle)
    with observing(predictor) as observe:
        model = Model(predictor, 100_000, PredictionLog(tmp_path, "0" * 64), observe)
        model.answer(picture(), "p", Wanted(form))
    (line,) = read_log(tmp_path)
    assert line.observation.predicted is not None
