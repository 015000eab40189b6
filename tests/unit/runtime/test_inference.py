"""Averages over sides and scales, and the dense CRF, against hand-made figures and float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segops.runtime.crf import refine
from segops.runtime.errors import SegopsError
from segops.runtime.inference import Inference
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import CrfSettings, PredictSettings
from segops.runtime.torch_predictor import TorchPredictor

NAMES = ("background", "cat", "dog")


class Brightest(nn.Module):
    """Says class c where colour channel c is the brightest, per pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 32


class LeftHalf(nn.Module):
    """Class 1 with logit 4 in the left half of whatever it is shown, else nothing."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(1, 2, *images.shape[2:])
        logits[0, 1, :, : images.shape[3] // 2] = 4
        return logits


class Taller(nn.Module):
    """Class 1 with a tenth of the height as its logit; remembers the sizes it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[2:]))
        logits = torch.zeros(1, 2, *images.shape[2:])
        logits[0, 1] = images.shape[2] / 10
        return logits


class Symmetric(nn.Module):
    """A convolution that sees no difference between left and right."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 5, padding=2)
        half = self.convolution.weight.data
        self.convolution.weight.data = (half + half.flip(-1)) / 32

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.convolution(images.float())
        return logits


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def predictor(network: nn.Module, classes: int = 3, **settings: object) -> TorchPredictor:
    chosen = PredictSettings.of_bundle(settings)
    return TorchPredictor(network, NAMES[:classes], inference=Inference(chosen))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def bilinear(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(C, h, w) to (C, *size): pixel centres at half, the border repeated, no smoothing."""
    for axis, length in ((1, size[0]), (2, size[1])):
        have = values.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, None)
        low = np.minimum(np.floor(place).astype(int), have - 1)
        high = np.minimum(low + 1, have - 1)
        share = (place - low).reshape([-1 if one == axis else 1 for one in range(3)])
        below, above = np.take(values, low, axis), np.take(values, high, axis)
        values = below * (1 - share) + above * share
    return values


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=0))
    found: NDArray[np.float64] = powers / powers.sum(axis=0)
    return found


def test_the_mirrored_prediction_is_turned_back_and_averaged() -> None:
    found = predictor(LeftHalf(), 2, flip=True)
    image = picture(6, 10)
    once = TorchPredictor(LeftHalf(), NAMES[:2]).predict_probabilities(image)
    np.testing.assert_allclose(once[1, :, :5], sigmoid(4), rtol=1e-6)
    np.testing.assert_allclose(once[1, :, 5:], 0.5, rtol=1e-6)
    # Each half is "left" once: sure in one of two predictions.
    np.testing.assert_allclose(
        found.predict_probabilities(image)[1], (sigmoid(4) + 0.5) / 2, rtol=1e-6
    )
    assert found.predict(image).confidence == pytest.approx((sigmoid(4) + 0.5) / 2, rel=1e-6)
    # An odd width: the middle column is never in the left half.
    odd = found.predict_probabilities(picture(6, 11))[1]
    np.testing.assert_allclose(odd[:, 5], 0.5, rtol=1e-6)
    np.testing.assert_allclose(odd[:, [0, 4, 6, 10]], (sigmoid(4) + 0.5) / 2, rtol=1e-6)


def test_scales_are_averaged_as_probabilities() -> None:
    network = Taller()
    found = predictor(network, 2, scales=[0.5, 1, 2]).predict_probabilities(picture(20, 30))
    assert network.sizes == [(10, 15), (20, 30), (40, 60)]
    expected = (sigmoid(1) + sigmoid(2) + sigmoid(4)) / 3
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    np.testing.assert_allclose(found[0], 1 - expected, rtol=1e-5)


def test_a_single_scale_other_than_one_is_no_plain_prediction() -> None:
    network = Taller()
    found = predictor(network, 2, scales=[1.5]).predict_probabilities(picture(20, 30))
    assert network.sizes == [(30, 45)]
    np.testing.assert_allclose(found[1], sigmoid(3), rtol=1e-6)


@pytest.mark.parametrize("size", [(7, 12), (1, 9), (16, 16)])
def test_scales_and_flip_equal_their_definition_in_float64(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels = image.transpose(2, 0, 1).astype(np.float64)
    expected = np.zeros((3, *size))
    scales = [0.5, 0.75, 1, 2.1]
    for scale in scales:
        scaled = tuple(max(1, round(side * scale)) for side in size)
        for step in (1, -1):
            shown = bilinear(pixels, (scaled[0], scaled[1]))[:, :, ::step]
            expected += softmax(bilinear(shown / 32, size))[:, :, ::step]
    found = predictor(Brightest(), scales=scales, flip=True).predict_probabilities(image)
    np.testing.assert_allclose(found, expected / 8, atol=1e-5)


def test_flipping_changes_nothing_for_a_network_that_sees_no_sides() -> None:
    image = picture(21, 34)
    plain = TorchPredictor(Symmetric(), NAMES)
    found = predictor(Symmetric(), flip=True)
    np.testing.assert_allclose(
        found.predict_probabilities(image), plain.predict_probabilities(image), atol=1e-5
    )
    margin = np.sort(plain.predict_probabilities(image), axis=0)
    clear = margin[2] - margin[1] > 1e-4
    np.testing.assert_array_equal(
        found.predict_mask(image)[clear], plain.predict_mask(image)[clear]
    )
    exact = predictor(Brightest(), flip=True)  # per pixel: to the bit
    np.testing.assert_array_equal(
        exact.predict_mask(image), TorchPredictor(Brightest(), NAMES).predict_mask(image)
    )


def test_a_mirrored_image_gets_the_mirrored_mask() -> None:
    torch.manual_seed(0)
    network = build(ModelSpec("plain_cnn", "", 3, {"width": 4}))
    found = predictor(network, flip=True)
    image = picture(32, 48)
    np.testing.assert_allclose(
        found.predict_probabilities(np.ascontiguousarray(image[:, ::-1])),
        found.predict_probabilities(image)[:, :, ::-1],
        atol=1e-6,
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40)])
def test_a_scale_leaves_at_least_one_pixel(size: tuple[int, int]) -> None:
    network = Taller()
    found = predictor(network, 2, scales=[0.1], flip=True).predict(picture(*size))
    assert found.mask.shape == size
    assert network.sizes[0] == (1, max(1, round(size[1] / 10)))


def test_in_window_mode_each_window_is_resized_and_mirrored() -> None:
    network = Taller()
    found = predictor(
        network, 2, scales=[2], flip=True, mode="window", window=[8, 10], overlap=0.5
    ).predict_probabilities(picture(20, 10))
    assert network.sizes == [(16, 20)] * 2 * 4
    np.testing.assert_allclose(found[1], sigmoid(1.6), rtol=1e-6)


CRF: dict[str, Any] = {
    "iterations": 3,
    "bilateral_sigma": 10,
    "color_sigma": 20,
    "gaussian_weight": 2,
}


def test_the_crf_refines_the_averaged_probabilities() -> None:
    image = np.kron(picture(3, 4), np.ones((6, 6, 1), np.uint8))
    averaged = predictor(Symmetric(), flip=True, scales=[1, 1.5]).predict_probabilities(image)
    expected = refine(
        torch.from_numpy(averaged), torch.from_numpy(image), CrfSettings(**CRF)
    ).numpy()
    refined = predictor(Symmetric(), flip=True, scales=[1, 1.5], crf=CRF)
    np.testing.assert_allclose(refined.predict_probabilities(image), expected, atol=1e-6)
    assert np.abs(expected - averaged).max() > 0.01
    np.testing.assert_array_equal(refined.predict(image).mask, expected.argmax(axis=0))
    off = predictor(Symmetric(), flip=True, scales=[1, 1.5], crf={**CRF, "iterations": 0})
    np.testing.assert_array_equal(off.predict_probabilities(image), averaged)


def test_the_crf_refines_each_window() -> None:
    image = np.kron(picture(2, 4), np.ones((6, 6, 1), np.uint8))
    refined = predictor(Brightest(), mode="window", window=[12, 12], overlap=0, crf=CRF)
    for columns in (slice(0, 12), slice(12, 24)):
        part = np.ascontiguousarray(image[:, columns])
        whole = predictor(Brightest(), crf=CRF).predict_probabilities(part)
        np.testing.assert_allclose(
            refined.predict_probabilities(image)[:, :, columns], whole, atol=1e-6
        )


class NotANumber(nn.Module):
    """Says NaN at one pixel of whatever it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(1, 3, *images.shape[2:])
        logits[0, 1, -1, -1] = float("nan")
        return logits


@pytest.mark.parametrize(
    "settings",
    [{}, {"flip": True}, {"crf": {"iterations": 1}}, {"mode": "window", "window": [4, 4]}],
)
def test_what_is_not_finite_is_found_in_every_way(settings: dict[str, object]) -> None:
    found = predictor(NotANumber(), **settings)
    calls = (found.predict, found.predict_mask, found.predict_tensors, found.predict_probabilities)
    for call in calls:
        with pytest.raises(SegopsError, match="not finite"):
            call(picture(6, 6))


@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "scales": [0.5, 1]}, {"mode": "window", "window": [4, 4]}]
)
def test_tensors_and_probabilities_say_the_same(settings: dict[str, object]) -> None:
    image = picture(9, 13)
    found = predictor(Symmetric(), **settings)
    mask, top = found.predict_tensors(image)
    probabilities = found.predict_probabilities(image)
    assert (mask.dtype, top.dtype, probabilities.dtype) == (torch.uint8, torch.float32, np.float32)
    assert not mask.is_inference()  # what is in inference mode cannot be changed outside
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(top.numpy(), probabilities.max(axis=0), rtol=1e-5)
    prediction = found.predict(image)
    np.testing.assert_array_equal(mask.numpy(), prediction.mask)
    assert prediction.confidence == pytest.approx(top.double().mean().item(), rel=1e-6)


def test_a_lower_matmul_precision_of_the_caller_is_not_ours() -> None:
    seen: list[str] = []

    class Asks(Brightest):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().forward(images)

    torch.set_float32_matmul_precision("medium")
    try:
        TorchPredictor(Asks(), NAMES).predict(picture(3, 3))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]
