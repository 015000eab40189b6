"""A bundle that segops 0.1.0 packaged in format 1 still predicts what it predicted then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from segops.predict.bundle import bundle_digest, load_bundle
from segops.runtime.errors import SegopsError

BUNDLES = Path(__file__).parents[2] / "bundles"
BUNDLE = BUNDLES / "format1"
DIGEST = "14929fadf257fb269f50e88a39a12bf89589813dc4b6de2a330e5d5bc972c823"


def test_it_predicts_the_same_bytes() -> None:
    predictor = load_bundle(BUNDLE, expected_digest=DIGEST)
    mask, confidence = predictor.predict_bytes((BUNDLES / "picture.png").read_bytes())
    assert mask == (BUNDLES / "format1_mask.png").read_bytes()
    assert confidence == pytest.approx(0.907631792041595, abs=1e-4)


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    later = shutil.copytree(BUNDLE, tmp_path / "later")
    model = json.loads((later / "model.json").read_text())
    (later / "model.json").write_text(json.dumps(model | {"format": 3}))
    with pytest.raises(
        SegopsError, match=r"format 3; this code reads 1, 2, onnx, openvino\. Use the version"
    ):
        load_bundle(later, expected_digest=bundle_digest(later))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "not the description of a model"),
        ({"format": 1}, "lacks spec or class_names"),
        ({"format": []}, r"format \[\]; this code reads 1, 2"),
        ({"format": 2}, "of format 2 by its model.json, but its runtime lacks load"),
    ],
)
def test_a_damaged_description_is_named(content: Any, words: str, tmp_path: Path) -> None:
    damaged = shutil.copytree(BUNDLE, tmp_path / "damaged")
    if content and content["format"] != 1:
        content = json.loads((damaged / "model.json").read_text()) | content
    (damaged / "model.json").write_text(json.dumps(content))
    with pytest.raises(SegopsError, match=words):
        load_bundle(damaged)
