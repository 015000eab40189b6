"""How a bundle says that it predicts: read from ``model.json``, checked, applied."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from segops.runtime.errors import SegopsError
from segops.runtime.inference import Inference
from segops.runtime.load import load
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import CrfSettings, PredictSettings
from segops.runtime.torch_predictor import TorchPredictor

NAMES = ["background", "cat", "dog"]
SPEC = {"architecture": "plain_cnn", "encoder": "", "classes": 3, "options": {"width": 4}}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build(ModelSpec(**SPEC)).eval()


def loaded(network: nn.Module, predict: dict[str, Any] | None) -> TorchPredictor:
    model: dict[str, Any] = {"spec": SPEC, "class_names": NAMES}
    if predict is not None:
        model["predict"] = json.loads(json.dumps(predict))  # as it lies in the file
    return load(model, safetensors.torch.save(network.state_dict()), "cpu")


def settings_of(predictor: TorchPredictor) -> PredictSettings:
    assert isinstance(predictor.inference, Inference)
    return predictor.inference.settings


def test_every_parameter_arrives_as_it_is_written() -> None:
    params = PredictSettings.model_validate(
        {
            "mode": "window",
            "window": [96, 128],
            "overlap": 0.25,
            "whole_pixels": 7,
            "flip": True,
            "scales": [0.5, 1, 2],
            "crf": {"iterations": 3, "color_sigma": 5},
            "max_pixels": 9,
        }
    )
    settings = PredictSettings.of_bundle(params.model_dump(mode="json"))
    assert settings == PredictSettings(
        mode="window",
        window=(96, 128),
        overlap=0.25,
        whole_pixels=7,
        flip=True,
        scales=(0.5, 1.0, 2.0),
        crf=CrfSettings(iterations=3, color_sigma=5.0),
        max_pixels=9,
    )


def test_the_parameters_defaults_are_these_but_for_the_mode() -> None:
    written = PredictSettings().model_dump(mode="json")
    assert PredictSettings.of_bundle(written) == PredictSettings()
    assert written.pop("mode") == "auto"
    assert PredictSettings.of_bundle(written) == PredictSettings(mode="whole")


def test_a_bundle_that_says_nothing_predicts_plainly(network: nn.Module) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    expected = TorchPredictor(network, NAMES).predict(image)
    for predict in (None, {}, {"flip": False}, {"mode": "auto"}, {"scales": [1.0]}):
        predictor = loaded(network, predict)
        found = predictor.predict(image)
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.confidence == expected.confidence
        assert predictor.inference is not None
        assert predictor.inference.is_plain(30, 50)
        assert settings_of(predictor).max_pixels == 200_000_000


def test_a_bundle_predicts_as_it_says(network: nn.Module) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    predictor = loaded(network, {"flip": True, "mode": "window", "window": [16, 24]})
    settings = PredictSettings(mode="window", window=(16, 24), flip=True)
    assert settings_of(predictor) == settings
    expected = TorchPredictor(network, NAMES, inference=Inference(settings))
    np.testing.assert_array_equal(
        predictor.predict_probabilities(image), expected.predict_probabilities(image)
    )
    plain = TorchPredictor(network, NAMES).predict_probabilities(image)
    assert np.abs(predictor.predict_probabilities(image) - plain).max() > 1e-4


def test_a_bundles_limit_is_asked_before_pixels_are_decoded(network: nn.Module) -> None:
    predictor = loaded(network, {"max_pixels": 12})
    for size, refused in (((4, 3), False), ((13, 1), True)):
        buffer = BytesIO()
        Image.new("RGB", size).save(buffer, "PNG")
        if refused:
            with pytest.raises(SegopsError, match=r"a\.png: 13 x 1 pixels.*predict\.max_pixels"):
                predictor.predict_bytes(buffer.getvalue(), "a.png")
        else:
            predictor.predict_bytes(buffer.getvalue(), "a.png")


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        ({"rotate": True}, r"model\.json: predict\.rotate is True: .* not permitted\. Package"),
        ({"crf": {"colour": 1}}, r"predict\.crf\.colour is 1: .* not permitted"),
        ({"mode": "tiles"}, r"predict\.mode is 'tiles': .*'auto', 'whole' or 'window'"),
        ({"window": [512]}, r"predict\.window\.1"),
        ({"window": [0, 5]}, r"predict\.window"),
        ({"window": 512}, r"predict\.window"),
        ({"overlap": 1}, r"predict\.overlap is 1: .* less than or equal to 0\.9"),
        ({"overlap": float("nan")}, r"predict\.overlap"),
        ({"whole_pixels": 0}, r"predict\.whole_pixels"),
        ({"flip": 2}, r"predict\.flip is 2: .* valid boolean"),
        ({"scales": []}, r"predict\.scales"),
        ({"scales": [1, 0]}, r"predict\.scales"),
        ({"scales": [1, float("inf")]}, r"predict\.scales"),
        ({"crf": 5}, r"predict\.crf is 5: "),
        ({"crf": {"iterations": -1}}, r"predict\.crf\.iterations"),
        ({"crf": {"color_sigma": 0}}, r"predict\.crf\.color_sigma"),
        ({"crf": {"bilateral_weight": -1}}, r"predict\.crf\.bilateral_weight"),
        ({"max_pixels": 1.5}, r"predict\.max_pixels"),
    ],
)
def test_what_is_not_known_or_not_possible_is_named(predict: dict[str, Any], words: str) -> None:
    with pytest.raises(SegopsError, match=words):
        PredictSettings.of_bundle(predict)


@pytest.mark.parametrize(
    ("mode", "size", "windows"),
    [
        ("whole", (99, 99), False),
        ("window", (20, 30), False),
        ("window", (21, 30), True),
        ("window", (1, 31), True),
        ("auto", (40, 25), False),
        ("auto", (1001, 1), True),
        ("auto", (41, 25), True),
    ],
)
def test_the_mode_chooses_between_whole_and_windows(
    mode: str, size: tuple[int, int], windows: bool
) -> None:
    settings = PredictSettings(mode=mode, window=(20, 30), whole_pixels=1000)
    assert settings.by_windows(*size) is windows
    assert Inference(settings).is_plain(*size) is not windows


@pytest.mark.parametrize(
    ("scales", "windows"),
    [((0.5, 1.0), False), ((1.0, 1.25), False), ((1.0, 1.5), True)],
)
def test_an_image_counts_at_the_largest_size_it_is_predicted_at(
    scales: tuple[float, ...], windows: bool
) -> None:
    settings = PredictSettings(mode="auto", window=(20, 30), whole_pixels=1563, scales=scales)
    assert settings.by_windows(25, 40) is windows
