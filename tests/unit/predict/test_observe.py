"""What is kept of an image and its prediction to find drift."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.observe import (
    STATISTICS,
    Predicted,
    observe,
    observing,
    statistic_names,
    statistics_of,
)
from segops.runtime.networks.zoo import build
from segops.voc.hashes import pixel_hash
from tests.support.bundles import write_bundle
from tests.support.folder_runs import make_bundle, picture
from tests.support.networks import CLASSES, small, wake

pytestmark = pytest.mark.usefixtures("one_thread")

FORMAT1 = Path(__file__).parents[2] / "bundles/format1"


def statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    return dict(zip(statistic_names(image.shape[2]), statistics_of(image), strict=True))


def kept(predictor: BundledPredictor, image: NDArray[np.uint8]) -> Predicted:
    with observing(predictor) as predict:
        found = predict(image)[1].predicted
    assert found is not None
    return found


def test_colour_and_size_of_a_known_image() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, :30] = (200, 100, 0)
    found = statistics(image)
    luma = round(0.299 * 200 + 0.587 * 100)
    assert found["brightness"] == pytest.approx(luma / 2 / 255, abs=0.002)
    assert found["contrast"] == pytest.approx(luma / 2 / 255, abs=0.002)
    assert (found["red"], found["blue"]) == (pytest.approx(2 / 3), 0.0)
    assert found["saturation"] == pytest.approx(100 / 255)
    assert (found["pixels"], found["shape"]) == (pytest.approx(math.log2(1800)), 1.0)
    assert all(map(math.isfinite, statistics(np.zeros((1, 1, 3), np.uint8)).values()))


def test_blur_and_noise_are_seen() -> None:
    image = picture(1, 90, 120)
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 3), np.uint8)
    assert statistics(blurred)["sharpness"] < statistics(image)["sharpness"] - 1
    grey = np.full((200, 200), 128.0)
    noise = np.random.default_rng(0).normal(0, 8, grey.shape)
    noisy = np.repeat((grey + noise).round().astype(np.uint8)[..., None], 3, axis=2)
    assert 2 ** statistics(noisy)["noise"] == pytest.approx(8, rel=0.05)


def test_bands_have_their_means() -> None:
    image = np.stack([np.full((4, 5), value, np.uint8) for value in (51, 102, 153, 255)], axis=2)
    found = statistics(image)
    assert list(found) == [*STATISTICS, "band 1", "band 2", "band 3", "band 4"]
    assert [found[f"band {number}"] for number in range(1, 5)] == pytest.approx([0.2, 0.4, 0.6, 1])


def test_an_image_is_known_by_its_pixels_alone() -> None:
    image = picture(2)
    found = observe(image)
    assert found.pixels == pixel_hash([image], 50, 37)
    assert (found.width, found.height, found.predicted) == (50, 37, None)


@pytest.mark.parametrize("architecture", ["unet", "fcn8s", "dpt", "plain_cnn"])
def test_the_embedding_is_the_mean_of_the_deepest_features(
    architecture: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    spec = small(architecture)
    network = build(spec)
    wake(network)
    write_bundle(tmp_path, network, spec, [f"class {one}" for one in range(CLASSES)], {}, {})
    predictor = load_bundle(tmp_path)
    image = picture(3, 64, 64)
    found = kept(predictor, image)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    inner: Any = network.eval().network
    with torch.inference_mode():
        normalised = (pixels.float() - network.pixel_mean) / network.pixel_std
        if architecture == "plain_cnn":
            features = inner.dropout(inner.layers(normalised))
        else:
            features = inner.encoder(normalised)
            features = features[0][-1] if isinstance(features, tuple) else features[-1]
        probabilities = network(pixels)[0].softmax(dim=0)[:, ::4, ::4]
    assert found.embedding is not None
    expected = features[0].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(found.embedding, expected, rtol=2e-3, atol=1e-3)
    entropy = -(probabilities * probabilities.log()).sum(dim=0).mean() / math.log(CLASSES)
    assert found.entropy == pytest.approx(float(entropy), abs=1e-5)


def test_padding_has_no_part_in_the_embedding(tmp_path: Path) -> None:
    predictor = load_bundle(make_bundle(tmp_path))
    image = picture(4, 40, 56)  # multiples of the features' stride, 8, and not of the padding's, 32
    network: Any = predictor.network
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    normalised = (pixels - network.pixel_mean) / network.pixel_std
    with torch.inference_mode():
        features = network.network.layers(functional.pad(normalised, (0, 8, 0, 24)))
    expected = features[0, :, :5, :7].mean(dim=(1, 2)).numpy()
    found = kept(predictor, image).embedding
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_windows_weigh_by_their_pixels_and_the_prediction_stays(tmp_path: Path) -> None:
    settings = {"mode": "window", "window": [32, 32], "overlap": 0.0}
    predictor = load_bundle(make_bundle(tmp_path, predict=settings))
    image = picture(5, 32, 64)
    halves = [kept(predictor, np.ascontiguousarray(image[:, side])) for side in
              (slice(0, 32), slice(32, 64))]  # fmt: skip
    with observing(predictor) as predict:
        prediction, observation = predict(image)
    found = observation.predicted
    assert found is not None
    assert found.embedding is not None
    mean = np.mean([one.embedding for one in halves], axis=0, dtype=float)
    np.testing.assert_allclose(found.embedding, mean, rtol=2e-3, atol=1e-3)
    again = predictor.predict(image)
    assert np.array_equal(prediction.mask, again.mask)
    assert prediction.confidence == again.confidence
    assert found.confidence == pytest.approx(again.confidence, abs=1e-6)
    counts = np.bincount(again.mask.ravel(), minlength=3) / again.mask.size
    assert found.shares == pytest.approx(counts.tolist(), abs=1e-6)


def test_threads_do_not_mix_and_nothing_stays_behind(tmp_path: Path) -> None:
    predictor = load_bundle(make_bundle(tmp_path))
    images = [picture(seed, 24 + seed, 40) for seed in range(12)]
    hooks = [len(one._forward_hooks) + len(one._forward_pre_hooks)
             for one in predictor.network.modules()]  # fmt: skip
    with observing(predictor) as predict, ThreadPoolExecutor(4) as pool:
        together = [one.predicted for _, one in pool.map(predict, images)]
    for one, image in zip(together, images, strict=True):
        alone = kept(predictor, image)
        assert one is not None
        assert np.array_equal(one.embedding, alone.embedding)  # type: ignore[arg-type]
        assert one.entropy == alone.entropy
    assert hooks == [len(one._forward_hooks) + len(one._forward_pre_hooks)
                     for one in predictor.network.modules()]  # fmt: skip


def test_a_bundle_of_old_code_is_observed_with_its_own_network() -> None:
    predictor = load_bundle(FORMAT1)
    found = kept(predictor, picture(6))
    assert found.embedding is not None
    assert found.entropy is not None
    assert 0 <= found.entropy <= 1
