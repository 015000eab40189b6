"""Photometric distortion against the reference's steps in float64, and how it is drawn."""

from __future__ import annotations

import colorsys
import random
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segops.augment.photometric import PhotometricDistortion
from segops.augment.policy import Policy, build_policy
from segops.params.augment import AugmentParams

Pixels = NDArray[np.uint8]
NOTHING = {
    "brightness": 0.0,
    "contrast": 1.0,
    "contrast_first": False,
    "saturation": 1.0,
    "hue": 0.0,
}


@pytest.fixture(scope="module")
def image() -> Pixels:
    """Every kind of colour: dark, bright, grey and pure."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    colours[:2] = np.linspace(0, 255, 60).astype(np.uint8).reshape(2, 30, 1)
    colours[2:4] = rng.choice(np.array([0, 255], np.uint8), (2, 30, 3))
    return colours


def reference(image: Pixels, drawn: dict[str, Any]) -> NDArray[np.float64]:
    """MMSegmentation's steps in their order, pixel by pixel, nothing rounded in between."""

    def contrast(pixel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(pixel * drawn["contrast"], 0, 255)

    result = np.empty(image.shape)
    for y, x in np.ndindex(*image.shape[:2]):
        pixel = np.clip(image[y, x].astype(float) + drawn["brightness"], 0, 255)
        if drawn["contrast_first"]:
            pixel = contrast(pixel)
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        s = min(s * drawn["saturation"], 1.0)
        h = (h + drawn["hue"] / 360) % 1
        pixel = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255
        result[y, x] = pixel if drawn["contrast_first"] else contrast(pixel)
    return result


def draws(transform: PhotometricDistortion, number: int) -> list[dict[str, Any]]:
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    return [transform.get_params() for _ in range(number)]


def in_bytes(image: Pixels, drawn: dict[str, Any]) -> Pixels:
    """The same steps as MMSegmentation takes them: cut to bytes, and through HSV, each time."""

    def cut(values: NDArray[np.float64]) -> Pixels:
        return np.clip(values, 0, 255).astype(np.uint8)

    image = cut(image.astype(float) + drawn["brightness"])
    if drawn["contrast_first"]:
        image = cut(image * drawn["contrast"])
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = cut(hsv[..., 1] * drawn["saturation"])
    hsv = cv2.cvtColor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(drawn["hue"] / 2)) % 180
    image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    return image if drawn["contrast_first"] else cut(image * drawn["contrast"])


def test_equals_the_reference_up_to_the_steps_of_hsv_in_bytes(image: Pixels) -> None:
    transform = PhotometricDistortion(hue=36)
    ours, theirs = [], []
    for drawn in draws(transform, 30):
        exact = reference(image, drawn)
        off = np.abs(transform.apply(image, **drawn) - exact)
        # Two halves of a step of hue (1.4 of 60 degrees) are 6 of 255 levels, and half a step of
        # saturation 1; contrast multiplies them.
        assert off.max() <= 7.5 * max(1.0, drawn["contrast"]) + 0.5
        ours.append(off.mean())
        theirs.append(np.abs(in_bytes(image, drawn) - exact).mean())
    assert np.mean(ours) < 0.6
    assert np.mean(ours) < 0.6 * np.mean(theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"brightness": 20.4},
        {"contrast": 1.31},
        {"contrast": 0.6, "contrast_first": True},
        {"brightness": -31.0, "contrast": 1.49, "contrast_first": True},
        {"brightness": 31.7, "contrast": 1.49},
    ],
)
def test_without_hsv_it_is_exact(image: Pixels, change: dict[str, Any]) -> None:
    drawn = {**NOTHING, **change}
    found = PhotometricDistortion().apply(image, **drawn).astype(float)
    assert np.abs(found - reference(image, drawn)).max() <= 0.5 + 1e-9


def test_nothing_drawn_changes_nothing(image: Pixels) -> None:
    assert np.array_equal(PhotometricDistortion().apply(image, **NOTHING), image)


def test_a_half_turn_of_hue_gives_the_complement() -> None:
    red = np.full((2, 2, 3), (200, 40, 40), np.uint8)
    turned = PhotometricDistortion().apply(red, **{**NOTHING, "hue": 180.0})
    assert np.abs(turned[0, 0].astype(int) - (40, 200, 200)).max() <= 6
    third = PhotometricDistortion().apply(red, **{**NOTHING, "hue": -120.0})
    assert np.abs(third[0, 0].astype(int) - (40, 40, 200)).max() <= 6


def test_each_part_acts_with_one_half_and_within_its_range() -> None:
    transform = PhotometricDistortion(
        brightness=20, contrast=(0.4, 1.2), saturation=(0.9, 1.8), hue=50
    )
    drawn = draws(transform, 4000)
    acting = {
        "brightness": [one["brightness"] for one in drawn if one["brightness"] != 0],
        "contrast": [one["contrast"] for one in drawn if one["contrast"] != 1],
        "saturation": [one["saturation"] for one in drawn if one["saturation"] != 1],
        "hue": [one["hue"] for one in drawn if one["hue"] != 0],
    }
    ranges = {
        "brightness": (-20, 20),
        "contrast": (0.4, 1.2),
        "saturation": (0.9, 1.8),
        "hue": (-50, 50),
    }
    for name, values in acting.items():
        low, high = ranges[name]
        assert len(values) / 4000 == pytest.approx(0.5, abs=0.04)
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))
    assert np.mean([one["contrast_first"] for one in drawn]) == pytest.approx(0.5, abs=0.04)
    both = [one["hue"] != 0 and one["contrast_first"] for one in drawn]
    assert np.mean(both) == pytest.approx(0.25, abs=0.04)


def test_in_a_policy_it_acts_with_its_probability_and_leaves_the_mask(image: Pixels) -> None:
    still = {part: {"p": 0} for part in ("scale", "flip", "rotate", "shift", "shear")}
    plain = {part: {"p": 0} for part in ("color_jitter", "blur", "noise")}
    params = AugmentParams.model_validate(
        {"crop": [24, 30], "photometric": {"p": 0.6}, **still, **plain}
    )
    policy = build_policy(params)
    assert [type(part).__name__ for part in policy.compose.transforms] == [
        "Warp",
        "PhotometricDistortion",
    ]
    mask = np.random.default_rng(1).integers(0, 21, image.shape[:2]).astype(np.uint8)
    twin = Policy.from_json(policy.to_json())
    changed = 0
    for seed in range(300):
        found, found_mask = policy(image, mask, seed)
        assert np.array_equal(found_mask, mask)
        assert np.array_equal(twin(image, mask, seed)[0], found)
        changed += not np.array_equal(found, image)
    # Of those that act, one in sixteen draws none of its parts.
    assert changed / 300 == pytest.approx(0.6 * 15 / 16, abs=0.09)


def test_the_input_is_left_as_it_is(image: Pixels) -> None:
    before = image.copy()
    read_only = cv2.resize(image, (300, 200))
    read_only.flags.writeable = False
    for drawn in draws(PhotometricDistortion(), 5):
        PhotometricDistortion().apply(np.asarray(read_only, np.uint8), **drawn)
    assert np.array_equal(image, before)
