"""The one warp does what Albumentations' transforms do one after the other, and pads rightly."""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segops.augment.geometry import Warp
from segops.runtime.bands import IMAGENET_MEAN_COLOR
from segops.runtime.classes import VOID

Pixels = NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> tuple[Pixels, Pixels]:
    """A smooth random image and a mask of blocks."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8), (width, height))
    blocks = rng.integers(0, 21, (5, 6), dtype=np.uint8)
    mask = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)


def apply(warp: Warp, image: Pixels, mask: Pixels, seed: int = 0) -> tuple[Pixels, Pixels]:
    warp.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = warp(image=image, mask=mask)
    return result["image"], result["mask"]


def drawn(warp: Warp, seed: int, shape: tuple[int, int] = (12, 12)) -> dict[str, Any]:
    apply(warp, np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), seed)
    return dict(warp.params)


def away_from_padding(mask: Pixels) -> NDArray[np.bool_]:
    inside = cv2.copyMakeBorder((mask != VOID).astype(np.uint8), 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.erode(inside, np.ones((5, 5)))[2:-2, 2:-2] == 1)


def stock(*transforms: Any) -> Any:
    return A.Compose(list(transforms))


FILL = {"fill": IMAGENET_MEAN_COLOR, "fill_mask": VOID}


def test_nothing_asked_for_changes_nothing() -> None:
    image, mask = picture(37, 53)
    warped, warped_mask = apply(Warp(size=(37, 53)), image, mask)
    assert np.array_equal(warped, image)
    assert np.array_equal(warped_mask, mask)


def test_a_flip_is_exact() -> None:
    image, mask = picture(37, 53)
    warped, warped_mask = apply(Warp(size=(37, 53), flip_p=1.0), image, mask)
    expected = stock(A.HorizontalFlip(p=1))(image=image, mask=mask)
    assert np.array_equal(warped, expected["image"])
    assert np.array_equal(warped_mask, expected["mask"])


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_crop_is_exact_wherever_it_lies(seed: int, flip: float) -> None:
    image, mask = picture(90, 120)
    warp = Warp(size=(40, 60), flip_p=flip)
    warped, warped_mask = apply(warp, image, mask, seed)
    a, _, left, _, _, top = warp.params["to_source"]
    left = round(left - 60 if a < 0 else left)
    expected = stock(
        A.Crop(left, round(top), left + 60, round(top) + 40), A.HorizontalFlip(p=flip)
    )(image=image, mask=mask)
    assert np.array_equal(warped, expected["image"])
    assert np.array_equal(warped_mask, expected["mask"])


def test_crops_reach_every_place() -> None:
    corners = {drawn(Warp(size=(8, 8)), seed, (10, 11))["to_source"] for seed in range(300)}
    assert {(c, f) for _, _, c, _, _, f in corners} == {(x, y) for x in range(4) for y in range(3)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0)
)
def test_padding_has_the_mean_colour_and_is_void(
    height: int, width: int, crop_height: int, crop_width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed % 1000)
    image = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
    mask = rng.integers(0, 21, (height, width), dtype=np.uint8)
    warp = Warp(size=(crop_height, crop_width))
    warped, warped_mask = apply(warp, image, mask, seed)
    assert warped.shape == (crop_height, crop_width, 3)
    assert warped_mask.shape == (crop_height, crop_width)
    padding = warped_mask == VOID
    assert padding.sum() == crop_height * crop_width - min(height, crop_height) * min(
        width, crop_width
    )
    # The field's mistake: 255 in the image, 0 in the mask.
    assert (warped[padding] == IMAGENET_MEAN_COLOR).all()
    assert (warped[~padding] < 100).all()


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_scale_is_close_to_a_resize(factor: float) -> None:
    image, mask = picture(60, 80)
    size = int(60 * factor), int(80 * factor)
    warped, warped_mask = apply(Warp(size=size, scale=(factor, factor), scale_p=1), image, mask)
    expected = stock(A.Resize(*size))(image=image, mask=mask)
    inner = (slice(2, -2), slice(2, -2))
    difference = np.abs(warped[inner].astype(int) - expected["image"][inner])
    assert difference.max() <= 2
    assert (warped_mask[inner] == expected["mask"][inner]).mean() > 0.95


def test_a_strong_reduction_averages_instead_of_skipping_pixels() -> None:
    image = np.zeros((160, 160, 3), np.uint8)
    image[::2, 1::2] = image[1::2, ::2] = 200
    warp = Warp(size=(40, 40), scale=(0.25, 0.25), scale_p=1, rotate=45, rotate_p=1)
    warped, mask = apply(warp, image, np.zeros((160, 160), np.uint8), seed=4)
    inside = away_from_padding(mask)
    assert inside.sum() > 400
    assert np.abs(warped[inside].astype(int) - 100).max() <= 6


@pytest.mark.parametrize("seed", range(4))
def test_rotation_and_shift_are_those_of_affine(seed: int) -> None:
    image, mask = picture(81, 81)
    warp = Warp(size=(81, 81), rotate=40, rotate_p=1, shift=0.2, shift_p=1)
    warped, warped_mask = apply(warp, image, mask, seed)
    angle, (x, y) = warp.params["angle"], warp.params["shift"]
    matrix = cv2.getRotationMatrix2D((40, 40), -angle, 1.0)
    matrix[:, 2] += x, y
    expected = cv2.warpAffine(mask, matrix, (81, 81), flags=cv2.INTER_NEAREST, borderValue=VOID)
    assert (warped_mask == expected).mean() > 0.98
    inside = away_from_padding(expected)
    expected = cv2.warpAffine(image, matrix, (81, 81))
    assert np.abs(warped[inside].astype(int) - expected[inside]).max() <= 2


def test_shear_moves_rows_and_columns_and_keeps_the_area() -> None:
    warp = Warp(size=(200, 200), shear=60, shear_p=1)
    for seed in range(50):
        a, b, _, d, e, _ = drawn(warp, seed, (200, 200))["to_source"]
        x, y = np.tan(np.radians(warp.params["shear"]))
        assert a * e - b * d == pytest.approx(1)
        assert np.linalg.inv([[a, b], [d, e]]) == pytest.approx(np.array([[1 + x * y, x], [y, 1]]))


@pytest.mark.parametrize(
    ("arguments", "values", "low", "high"),
    [
        ({"scale": (0.5, 2.0), "scale_p": 1}, lambda p: [p["scale"]], 0.5, 2.0),
        ({"rotate": 30, "rotate_p": 1}, lambda p: [p["angle"]], -30, 30),
        ({"shift": 0.25, "shift_p": 1}, lambda p: p["shift"], -3, 3),
        ({"shear": 20, "shear_p": 1}, lambda p: p["shear"], -20, 20),
    ],
)
def test_the_whole_range_is_drawn_and_nothing_beyond(
    arguments: dict[str, Any], values: Any, low: float, high: float
) -> None:
    warp = Warp(size=(12, 12), **arguments)
    found = np.array([values(drawn(warp, seed)) for seed in range(400)])
    assert found.min() >= low
    assert found.max() <= high
    assert found.min() < low + 0.05 * (high - low)
    assert found.max() > high - 0.05 * (high - low)
    assert found.mean() == pytest.approx((low + high) / 2, abs=0.1 * (high - low))


@pytest.mark.parametrize(
    ("name", "limits", "acted"),
    [
        ("scale_p", {"scale": (0.5, 0.9)}, lambda p: p["scale"] != 1),
        ("flip_p", {}, lambda p: p["flip"]),
        ("rotate_p", {"rotate": 30}, lambda p: p["angle"] != 0),
        ("shift_p", {"shift": 0.25}, lambda p: p["shift"] != (0, 0)),
        ("shear_p", {"shear": 20}, lambda p: p["shear"] != (0, 0)),
    ],
)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_each_part_acts_as_often_as_asked(
    name: str, limits: dict[str, Any], acted: Any, probability: float
) -> None:
    warp = Warp(size=(12, 12), **limits, **{name: probability})
    share = np.mean([acted(drawn(warp, seed)) for seed in range(600)])
    # Five standard deviations; exact at 0 and 1.
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / 600)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60))
def test_cutting_to_what_is_needed_changes_nothing(seed: int, height: int, width: int) -> None:
    image, mask = picture(height, width, seed)
    warp = Warp(
        size=(32, 48), scale=(0.6, 3.0), scale_p=1, flip_p=0.5, rotate=180, rotate_p=1, shift=0.9,
        shift_p=1, shear=40, shear_p=0.5,
    )  # fmt: skip
    warped, warped_mask = apply(warp, image, mask, seed)
    a, b, c, d, e, f = warp.params["to_source"]
    matrix = np.array(
        [[a, b, c + (a + b) / 2 - 0.5], [d, e, f + (d + e) / 2 - 0.5]], dtype=np.float64
    )
    nearest, linear = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, cv2.INTER_LINEAR
    expected_mask = cv2.warpAffine(mask, matrix, (48, 32), flags=nearest, borderValue=VOID)
    expected = cv2.warpAffine(
        image,
        matrix,
        (48, 32),
        flags=linear | cv2.WARP_INVERSE_MAP,
        borderValue=IMAGENET_MEAN_COLOR,
    )
    # Positions that lie between two pixels may be rounded either way.
    assert (warped_mask == expected_mask).mean() > 0.98
    assert np.abs(warped.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 2)])
def test_the_smallest_images_work(shape: tuple[int, int]) -> None:
    warp = Warp(size=(16, 16), scale=(0.05, 4), scale_p=1, rotate=180, rotate_p=1)
    image, mask = np.full((*shape, 3), 9, np.uint8), np.full(shape, 7, np.uint8)
    for seed in range(50):
        warped, warped_mask = apply(warp, image, mask, seed)
        assert warped.shape == (16, 16, 3)
        assert set(np.unique(warped_mask)) <= {7, VOID}


def test_a_crop_that_misses_the_image_is_all_padding() -> None:
    warp = Warp(size=(20, 20), shift=0.99, shift_p=1)
    missed = 0
    for seed in range(300):
        image, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
        warped, warped_mask = apply(warp, image, mask, seed)
        left, top, right, bottom = warp.params["window"]
        if left == right or top == bottom:
            missed += 1
            assert (warped == IMAGENET_MEAN_COLOR).all()
            assert (warped_mask == VOID).all()
    assert missed > 10
