"""The proof passes what is right and finds each mistake of the field."""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segops.augment.color import ColorJitter
from segops.augment.geometry import Warp
from segops.augment.policy import Policy, build_policy
from segops.augment.proof import find_fault, prove
from segops.params.augment import AugmentParams
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

Pixels = NDArray[np.uint8]

STRONG = AugmentParams.model_validate(
    {
        "crop": [64, 80],
        "scale": {"range": [0.2, 3.0]},
        "rotate": {"limit": 180, "p": 0.7},
        "shift": {"limit": 0.4, "p": 0.7},
        "shear": {"limit": 40, "p": 0.7},
        "noise": {"p": 0.5},
        "blur": {"p": 0.5},
    }
)


class ShiftedMask(Warp):
    """The mask lies three pixels beside the image."""

    def apply_to_mask(self, mask: Pixels, **params: Any) -> Pixels:
        return np.roll(super().apply_to_mask(mask, **params), 3, axis=1)


class FlippedImage(Warp):
    """The image alone is flipped."""

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        return np.ascontiguousarray(super().apply(img, **params)[:, ::-1])


class BilinearMask(Warp):
    """The mask is interpolated."""

    def apply_to_mask(self, mask: Pixels, **params: Any) -> Pixels:
        return np.asarray(cv2.blur(super().apply_to_mask(mask, **params), (2, 1)), np.uint8)


class LostVoid(Warp):
    """Void pixels become background."""

    def apply_to_mask(self, mask: Pixels, **params: Any) -> Pixels:
        kept = np.where(mask == VOID, np.uint8(0), mask)
        return super().apply_to_mask(kept, **params)


class Unseeded(Warp):
    """Draws from a generator that nobody seeds."""

    def set_random_state(self, *_: Any) -> None:
        super().set_random_state(np.random.default_rng(), random.Random())


class WrongSize(Warp):
    """One row is missing."""

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        return super().apply(img, **params)[:-1]


class Recolored(Warp):
    """The image is so coarse that its pixels tell no position."""

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        return np.where(super().apply(img, **params) > 200, np.uint8(255), np.uint8(0))


class MaskChanger(A.DualTransform):
    """A part after the geometry that touches the mask."""

    def apply(self, img: Pixels, **_: Any) -> Pixels:
        return img

    def apply_to_mask(self, mask: Pixels, **_: Any) -> Pixels:
        return np.ascontiguousarray(mask[::-1])


def sample(seed: int = 0, shape: tuple[int, int] = (90, 120)) -> tuple[str, Pixels, Pixels]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    blocks = rng.choice(np.array([0, 5, 20, VOID], np.uint8), (9, 12))
    mask = cv2.resize(blocks, shape[::-1], interpolation=cv2.INTER_NEAREST)
    return f"image_{seed}", image, np.asarray(mask, np.uint8)


@pytest.mark.parametrize("shape", [(90, 120), (1, 1), (300, 20), (64, 80)])
def test_the_policy_of_params_passes_at_its_strongest(shape: tuple[int, int]) -> None:
    assert prove(build_policy(STRONG), [sample(1, shape)], range(40)) == 40


def test_large_images_are_looked_at_in_part() -> None:
    big = np.zeros((1500, 1300), np.uint8)
    image = np.zeros((1500, 1300, 3), np.uint8)
    assert find_fault(build_policy(STRONG), image, big, 0) is None


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (ShiftedMask(size=(40, 50)), "are not the image's"),
        (FlippedImage(size=(40, 50)), "are not the image's"),
        (BilinearMask(size=(40, 50)), r"ids .* appear"),
        (LostVoid(size=(40, 50)), r"[1-9]\d* of them void pixels"),
        (Unseeded(size=(40, 50)), "the same seed gives other bytes"),
        (WrongSize(size=(40, 50)), "expected a crop of"),
        (Warp(size=(140, 150), fill_mask=0), r"nothing of the image, the mask has the ids \[0"),
        (Recolored(size=(40, 50)), "come from nowhere"),
    ],
)
def test_each_mistake_is_found(policy: Warp, words: str) -> None:
    with pytest.raises(SegopsError, match=words) as caught:
        prove(Policy(A.Compose([policy, ColorJitter(p=0.5)])), [sample(3)], range(4))
    assert "image_3 (seed 0)" in str(caught.value)


def test_a_later_part_that_changes_the_mask_is_found() -> None:
    policy = Policy(A.Compose([Warp(size=(40, 50)), MaskChanger(p=1)]))
    fault = find_fault(policy, *sample(4)[1:], seed=0)
    assert fault is not None
    assert str(fault).startswith("MaskChanger: ")
    assert "pixels of the mask are not the image's" in str(fault)


@pytest.mark.parametrize("fill", [(0, 0, 0), (255, 255, 255), (7, 200, 90)])
def test_padding_may_have_any_colour(fill: tuple[int, int, int]) -> None:
    policy = Policy(A.Compose([Warp(size=(140, 150), fill=fill)]))
    assert find_fault(policy, *sample(4)[1:], seed=0) is None


def test_all_images_with_faults_are_listed() -> None:
    policy = Policy(A.Compose([ShiftedMask(size=(40, 50))]))
    with pytest.raises(SegopsError) as caught:
        prove(policy, [sample(5), sample(6)], range(2))
    for name in ("image_5 (seed 0)", "image_5 (seed 1)", "image_6 (seed 0)", "image_6 (seed 1)"):
        assert name in str(caught.value)
