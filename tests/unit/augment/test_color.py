"""Colour jitter, blur and noise: right in value, range and probability, and blind to void."""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.pixel import functional as stock
from numpy.typing import NDArray
from torchvision.transforms import functional as torchvision

from segops.augment.color import LUMA, ColorJitter, GaussianBlur, GaussianNoise
from segops.runtime.classes import VOID

Pixels = NDArray[np.uint8]


@pytest.fixture
def image() -> Pixels:
    """Mid-toned, so that nothing is clipped."""
    rng = np.random.default_rng(0)
    return np.asarray(cv2.resize(rng.integers(90, 150, (8, 9, 3), np.uint8), (90, 80)), np.uint8)


def apply(transform: Any, image: Pixels, mask: Pixels | None = None, seed: int = 0) -> Pixels:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    mask = np.zeros(image.shape[:2], np.uint8) if mask is None else mask
    before = mask.copy()
    result = transform(image=image, mask=mask)
    assert np.array_equal(result["mask"], before)
    return np.asarray(result["image"])


def test_factors_of_one_change_nothing(image: Pixels) -> None:
    assert np.array_equal(apply(ColorJitter(p=1), image), image)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_factor_is_that_of_torchvision(image: Pixels, name: str, seed: int) -> None:
    jitter = ColorJitter(**{name: 0.4}, p=1)
    found = apply(jitter, image[:64], seed=seed)
    tensor = torch.from_numpy(image[:64]).permute(2, 0, 1)
    adjust = getattr(torchvision, f"adjust_{name}")
    expected = adjust(tensor, jitter.params[name]).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_hue_turns_colours_and_keeps_grey_and_luma(image: Pixels) -> None:
    jitter = ColorJitter(hue=0.5, p=1)
    found = apply(jitter, image, seed=1)
    assert abs(jitter.params["hue"]) > 0.1
    assert np.abs(found.astype(int) - image).max() > 10
    assert np.abs(found @ LUMA - image @ LUMA).max() < 1.5
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert np.array_equal(apply(jitter, grey, seed=1), grey)


def test_small_turns_of_hue_go_the_way_of_hsv() -> None:
    red = np.full((4, 4, 3), (180, 60, 60), np.uint8)
    for seed in range(10):
        jitter = ColorJitter(hue=0.1, p=1)
        found = apply(jitter, red, seed=seed)[0, 0].astype(int)
        expected = stock.adjust_hue_torchvision(red, jitter.params["hue"])[0, 0].astype(int)
        assert (found[1] - found[2]) * (expected[1] - expected[2]) >= 0


def test_void_pixels_count_in_no_statistic(image: Pixels) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:, 45:] = VOID
    other = image.copy()
    other[:, 45:] = 255
    jitter = ColorJitter(contrast=0.9, p=1)
    assert np.array_equal(
        apply(jitter, image, mask)[:, :45],
        apply(jitter, other, mask)[:, :45],
    )
    assert not np.array_equal(apply(jitter, image)[:, :45], apply(jitter, other)[:, :45])


def test_an_image_that_is_all_void_is_no_problem(image: Pixels) -> None:
    mask = np.full(image.shape[:2], VOID, np.uint8)
    assert apply(ColorJitter(contrast=0.5, p=1), image, mask).shape == image.shape


@pytest.mark.parametrize("height", [7, 127, 128, 500])
def test_the_mean_of_some_rows_is_close_to_the_mean_of_all(height: int) -> None:
    rng = np.random.default_rng(1)
    image = np.asarray(cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (120, height)))
    jitter = ColorJitter(contrast=0.5, p=1)
    apply(jitter, image)
    offset = jitter.params["matrix"][0, 3] / (1 - jitter.params["contrast"])
    assert offset == pytest.approx((image @ LUMA).mean(), abs=1.5)


@pytest.mark.parametrize(
    ("name", "limit", "middle"),
    [("brightness", 0.3, 1), ("contrast", 0.2, 1), ("saturation", 0.6, 1), ("hue", 0.1, 0)],
)
def test_the_whole_range_of_each_factor_is_drawn(name: str, limit: float, middle: float) -> None:
    jitter = ColorJitter(**{name: limit}, p=1)
    found = []
    for seed in range(400):
        apply(jitter, np.zeros((2, 2, 3), np.uint8), seed=seed)
        found.append(jitter.params[name] - middle)
    assert max(np.abs(found)) <= limit
    assert min(found) < -0.95 * limit
    assert max(found) > 0.95 * limit


def test_blur_is_that_of_albumentations() -> None:
    image = np.random.default_rng(2).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    found = apply(GaussianBlur(sigma=(1.1, 1.1), p=1), image)
    expected = A.GaussianBlur(sigma_limit=(1.1, 1.1), p=1)(image=image)["image"]
    assert np.abs(found.astype(int) - expected).max() <= 3
    assert found.std() < 0.5 * image.std()


def test_noise_has_the_deviation_asked_for_in_every_channel() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    noise = apply(GaussianNoise(std=(0.04, 0.04), p=1), image).astype(float) - 128
    assert noise.mean(axis=(0, 1)) == pytest.approx([0, 0, 0], abs=0.3)
    assert noise.std(axis=(0, 1)) == pytest.approx([10.2] * 3, rel=0.03)
    correlation = np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)
    assert np.abs(correlation).max() < 0.03
    # As the normal distribution has it: 68 % within one deviation, 95 % within two.
    assert (np.abs(noise) < 10.2).mean() == pytest.approx(0.683, abs=0.03)
    assert (np.abs(noise) < 20.4).mean() == pytest.approx(0.954, abs=0.01)


def test_noise_differs_between_seeds_and_is_clipped() -> None:
    image = np.full((30, 30, 3), 254, np.uint8)
    transform = GaussianNoise(std=(0.05, 0.05), p=1)
    first, second = (apply(transform, image, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first, second)
    assert first.max() == 255
    assert first.min() > 200


@pytest.mark.parametrize(
    ("transform", "name", "low", "high"),
    [
        (GaussianBlur(sigma=(0.3, 1.2), p=1), "drawn_sigma", 0.3, 1.2),
        (GaussianNoise(std=(0.01, 0.05), p=1), "drawn_std", 0.01, 0.05),
    ],
)
def test_strengths_fill_their_range(transform: Any, name: str, low: float, high: float) -> None:
    found = []
    for seed in range(300):
        apply(transform, np.zeros((3, 3, 3), np.uint8), seed=seed)
        found.append(transform.params[name])
    assert low <= min(found) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(found) <= high


@pytest.mark.parametrize("transform", [ColorJitter, GaussianBlur, GaussianNoise])
@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_each_acts_as_often_as_asked(transform: Any, probability: float) -> None:
    part = transform(p=probability)
    acted = 0
    for seed in range(600):
        apply(part, np.zeros((2, 2, 3), np.uint8), seed=seed)
        acted += bool(part.params)
    assert abs(acted / 600 - probability) <= 5 * np.sqrt(probability * (1 - probability) / 600)
