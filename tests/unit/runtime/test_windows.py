"""Windows: where they lie, how they are blended, and that a strip is all that is held."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segops.runtime.inference import Inference
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.torch_arrays import TorchArrays
from segops.runtime.torch_predictor import TorchPredictor
from segops.runtime.windows import blend, starts, weights

NAMES = ("background", "cat", "dog")


class Brightest(nn.Module):
    """Says class c where colour channel c is the brightest: per pixel, whatever lies around."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 32


class Places(nn.Module):
    """Logits that depend on where in the window a pixel lies, and on its colour."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        rows = (torch.arange(height) / 10)[:, None].expand(height, width)
        columns = (torch.arange(width) / 10)[None].expand(height, width)
        return images.float() / 64 + torch.stack([rows.sin() + columns, columns.cos(), rows])


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def windowed(network: nn.Module, window: tuple[int, int], overlap: float = 0.5) -> TorchPredictor:
    chosen = PredictSettings(mode="window", window=window, overlap=overlap)
    return TorchPredictor(network, NAMES, inference=Inference(chosen))


def reference(
    network: nn.Module, image: NDArray[np.uint8], window: tuple[int, int], overlap: float
) -> NDArray[np.float64]:
    """Blending in float64 with buffers of the image's full size and weights in two dimensions."""
    height, width = image.shape[:2]
    sides = [min(window[0], height), min(window[1], width)]
    hann = [np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in sides]
    weight = np.outer(*hann)
    total, weighted = np.zeros((height, width)), np.zeros((3, height, width))
    tops, lefts = (
        sorted({min(k * max(1, round(side * (1 - overlap))), length - side) for k in range(length)})
        for side, length in zip(sides, (height, width), strict=True)
    )
    for top in tops:
        for left in lefts:
            place = np.s_[top : top + sides[0], left : left + sides[1]]
            pixels = torch.from_numpy(image[place].copy()).permute(2, 0, 1)[None]
            logits = network(pixels)[0].double().numpy()
            powers = np.exp(logits - logits.max(axis=0))
            weighted[(slice(None), *place)] += weight * powers / powers.sum(axis=0)
            total[place] += weight
    return weighted / total


def test_windows_cover_a_side_and_end_with_it() -> None:
    assert starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert starts(11, 4, 0.5) == [0, 2, 4, 6, 7]  # the last moved inward
    assert starts(10, 4, 0) == [0, 4, 6]
    assert starts(8, 4, 0) == [0, 4]
    assert starts(4, 4, 0.5) == starts(1, 4, 0.5) == [0]
    assert starts(3, 1, 0.9) == [0, 1, 2]


def test_weights_are_smooth_even_and_never_zero() -> None:
    for length in (1, 2, 7, 64, 4096):
        found = weights(length)
        assert found.dtype == np.float32
        assert found.min() > 0
        assert found.max() <= 1
        np.testing.assert_allclose(found, found[::-1], rtol=1e-6)
    half = weights(64)
    np.testing.assert_allclose(half[:32] + half[32:], 1, rtol=1e-6)
    assert np.diff(half)[:31].min() > 0


sizes = st.integers(1, 24)


@given(sizes, sizes, sizes, sizes, st.sampled_from([0, 0.25, 0.5, 0.9]))
@settings(max_examples=40, deadline=None)
def test_blending_equals_buffers_of_the_full_size(
    height: int, width: int, window_height: int, window_width: int, overlap: float
) -> None:
    image, window = picture(height, width), (window_height, window_width)
    expected = reference(Places(), image, window, overlap)
    predictor = windowed(Places(), window, overlap)
    probabilities = predictor.predict_probabilities(image)
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)
    mask, top = predictor.predict_tensors(image)
    np.testing.assert_array_equal(mask.numpy(), probabilities.argmax(axis=0))
    np.testing.assert_allclose(top.numpy(), probabilities.max(axis=0), rtol=1e-6)
    prediction = predictor.predict(image)
    np.testing.assert_array_equal(prediction.mask, mask.numpy())
    np.testing.assert_array_equal(predictor.predict_mask(image), mask.numpy())
    assert prediction.confidence == pytest.approx(expected.max(axis=0).mean(), abs=1e-6)


@given(sizes, sizes, sizes, sizes, st.sampled_from([0, 0.3, 0.75]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_network_without_context_says_the_same_in_windows(
    height: int, width: int, window_height: int, window_width: int, overlap: float, seed: int
) -> None:
    image = picture(height, width, seed)
    found = windowed(Brightest(), (window_height, window_width), overlap).predict(image)
    expected = TorchPredictor(Brightest(), NAMES).predict(image)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.confidence == pytest.approx(expected.confidence, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (30, 44), (32, 48), (5, 48)])
def test_an_image_that_fits_in_a_window_is_predicted_whole(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build(ModelSpec("plain_cnn", "", 3, {"width": 4}))
    image = picture(*size)
    plain, found = TorchPredictor(network, NAMES), windowed(network, (32, 48))
    assert found.predict(image).confidence == plain.predict(image).confidence
    for one, other in zip(found.predict_tensors(image), plain.predict_tensors(image), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 1000), (64, 65)])
def test_elongated_images_by_windows(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = reference(Places(), image, (48, 64), 0.5)
    found = windowed(Places(), (48, 64)).predict_probabilities(image)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(400, 30), (30, 400), (90, 300)])
def test_one_strip_along_the_shorter_side_is_all_that_is_held(size: tuple[int, int]) -> None:
    windows: list[tuple[int, int]] = []

    def predict(rows: slice, columns: slice) -> Tensor:
        windows.append((rows.start, columns.start))
        return torch.full((3, rows.stop - rows.start, columns.stop - columns.start), 1 / 3)

    covered = np.zeros(size, int)
    largest = 0
    for rows, columns, probabilities in blend(size, (20, 16), 0.5, predict, TorchArrays("cpu")):
        covered[rows, columns] += 1
        # A part is a view of the strip; its storage is all of the strip.
        largest = max(largest, probabilities.untyped_storage().nbytes() // 4)
        torch.testing.assert_close(probabilities, torch.full_like(probabilities, 1 / 3))
    assert (covered == 1).all()
    assert largest == 3 * min(20 * size[1], 16 * size[0])
    assert len(windows) == len(set(windows))


def test_a_part_is_handed_out_before_the_next_windows_are_asked_for() -> None:
    asked: list[int] = []

    def predict(rows: slice, columns: slice) -> Tensor:
        asked.append(rows.start)
        return torch.ones(1, rows.stop - rows.start, columns.stop - columns.start)

    for rows, _, _ in blend((100, 8), (20, 8), 0.5, predict, TorchArrays("cpu")):
        assert asked[-1] <= rows.start
