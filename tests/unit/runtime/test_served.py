"""The served model predicts as its bundle says, and takes and refuses what the predictor does."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from segops.runtime.inference import Inference
from segops.runtime.masks import decode_mask
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.pyfunc_model import BundledSegmenter
from segops.runtime.torch_predictor import TorchPredictor
from tests.support.bundles import write_bundle

NAMES = ("background", "cat", "dog")
SPEC = ModelSpec("plain_cnn", "", 3, {"width": 4})
PREDICT: dict[str, Any] = {
    "mode": "window",
    "window": [24, 32],
    "flip": True,
    "scales": [0.75, 1.0],
    "crf": {"iterations": 2, "bilateral_sigma": 8.0},
    "max_pixels": 5000,
}


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_a_served_model_predicts_as_its_bundle_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(SPEC)
    write_bundle(tmp_path / "bundle", network, SPEC, NAMES, {}, {}, PREDICT, 12)
    model = BundledSegmenter()
    configuration = {"device": "cpu"}
    model.load_context(
        SimpleNamespace(artifacts={"bundle": str(tmp_path / "bundle")}, model_config=configuration)
    )
    photograph = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    deep = np.random.default_rng(1).integers(0, 1 << 12, (30, 50), dtype=np.uint16)
    contents = [encoded(Image.fromarray(photograph)), encoded(Image.fromarray(deep))]
    found = model.predict(None, pd.DataFrame({"image": contents}))

    expected = TorchPredictor(
        network, NAMES, inference=Inference(PredictSettings.of_bundle(PREDICT))
    )
    grey = np.repeat((deep >> 4).astype(np.uint8)[..., None], 3, axis=2)
    for row, image in zip(found.itertuples(), (photograph, grey), strict=True):
        prediction = expected.predict(image)
        np.testing.assert_array_equal(decode_mask(row.mask, "mask"), prediction.mask)
        assert row.confidence == pytest.approx(prediction.confidence, rel=1e-6)
    plain = TorchPredictor(network, NAMES).predict(photograph).confidence
    assert abs(found["confidence"][0] - plain) > 1e-4  # or equal figures would say little

    for content, words in (
        (encoded(Image.new("1", (5001, 1))), r"row 1: 5001 x 1 pixels.*at most 5,000"),
        (encoded(Image.new("F", (9, 9)), "TIFF"), r"row 1: image of mode F"),
        (contents[0][:-100], r"row 1: not decodable"),
        (encoded(Image.fromarray(deep << 1)), r"row 1: holds the value.*`data.bit_depth` is 12"),
    ):
        with pytest.raises(MlflowException, match=words) as error:
            model.predict(None, pd.DataFrame({"image": [contents[0], content]}))
        assert error.value.get_http_status_code() == 400
