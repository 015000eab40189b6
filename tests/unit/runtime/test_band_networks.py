"""Networks, pretrained weights and predictors of other than three channels."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders._utils import patch_first_conv

from segops.models.loading import load_start
from segops.models.pretrained import load_encoder_weights
from segops.runtime.crf import refine
from segops.runtime.errors import SegopsError
from segops.runtime.inference import Inference
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.torch_predictor import TorchPredictor
from tests.support.networks import small

MEAN, STD = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
NAMES = ("a", "b", "c", "d", "e")


def spec_of(architecture: str, channels: int) -> ModelSpec:
    return replace(small(architecture), mean=MEAN[:channels], std=STD[:channels])


@pytest.mark.parametrize("architecture", ["plain_cnn", "unet", "fcn8s", "dilated_fcn"])
@pytest.mark.parametrize("channels", [2, 5])
def test_a_network_takes_as_many_channels_as_it_is_normalised_by(
    architecture: str, channels: int
) -> None:
    network = build(spec_of(architecture, channels)).eval()
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.full((1, channels, 32, 32), 51, dtype=torch.uint8)
    assert network(images).shape == (1, len(NAMES), 32, 32)
    expected = (0.2 - torch.tensor(MEAN[:channels])) / torch.tensor(STD[:channels])
    torch.testing.assert_close(seen[0][0, :, 0, 0], expected)
    with pytest.raises(ValueError, match=rf"expected shape \(N, {channels}, H, W\)"):
        network(images[:, :1])


@pytest.mark.parametrize("channels", [2, 5])
def test_rgb_weights_of_the_first_layer_are_adapted_by_smp_s_rule(
    tmp_path: Path, channels: int
) -> None:
    rgb = get_encoder("resnet18", weights=None)
    save_file(rgb.state_dict(), tmp_path / "rgb.safetensors")
    wide = get_encoder("resnet18", in_channels=channels, weights=None)
    report = load_encoder_weights(wide, tmp_path / "rgb.safetensors")
    assert not report.mismatched
    patch_first_conv(rgb, channels, pretrained=True)
    for name, tensor in rgb.state_dict().items():
        torch.testing.assert_close(wide.state_dict()[name], tensor)


def test_a_training_may_start_from_an_rgb_model_of_other_classes() -> None:
    rgb = build(replace(small("unet"), classes=3)).state_dict()
    network = build(spec_of("unet", 4))
    load_start(network, rgb)
    (name,) = (one for one, tensor in rgb.items() if tensor.ndim == 4 and tensor.shape[1] == 3)
    found = network.state_dict()[name]
    torch.testing.assert_close(found[:, 3], rgb[name][:, 0] * 0.75)
    torch.testing.assert_close(found[:, :3], rgb[name] * 0.75)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_predictor_takes_files_and_pixels_of_all_bands(channels: int) -> None:
    predictor = TorchPredictor(build(spec_of("plain_cnn", channels)), NAMES, channels=channels)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, channels), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels, {2: "LA", 4: "RGBA"}[channels]).save(buffer, "PNG")
    mask, confidence = predictor.predict_bytes(buffer.getvalue())
    expected = predictor.predict(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(mask))), expected.mask)
    assert confidence == expected.confidence
    with pytest.raises(ValueError, match=rf"expected uint8 of \(H, W, {channels}\)"):
        predictor.predict(pixels[..., [0, 0, 0]])
    rgb = BytesIO()
    Image.fromarray(pixels[..., [0, 0, 0]]).save(rgb, "PNG")
    with pytest.raises(SegopsError, match=f"3 bands; expected {channels}"):
        predictor.predict_bytes(rgb.getvalue())


@pytest.mark.parametrize("channels", [2, 4])
def test_the_crf_compares_the_colours_that_pictures_show(channels: int) -> None:
    network = build(spec_of("plain_cnn", channels))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, channels), dtype=np.uint8)
    settings = PredictSettings.model_validate({"crf": {"iterations": 2}, "flip": True})
    refined = TorchPredictor(network, NAMES, inference=Inference(settings), channels=channels)
    plain = PredictSettings.model_validate({"flip": True})
    unrefined = TorchPredictor(network, NAMES, inference=Inference(plain), channels=channels)
    shown = pixels[..., [0, 1, 2] if channels == 4 else [0, 0, 0]]
    probabilities = torch.from_numpy(unrefined.predict_probabilities(pixels))
    expected = refine(probabilities, torch.from_numpy(shown), settings.crf).numpy()
    np.testing.assert_allclose(refined.predict_probabilities(pixels), expected, atol=1e-6)
