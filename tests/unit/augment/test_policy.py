"""The policy: built from parameters, written and read back, a function of inputs and seed."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segops.augment.policy import Policy, build_policy, sample_seed
from segops.params.augment import AugmentParams
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

Pixels = NDArray[np.uint8]


def params(**changes: Any) -> AugmentParams:
    return AugmentParams.model_validate({"crop": [48, 40], **changes})


STRONG = params(
    scale={"range": [0.3, 3.0], "p": 1},
    rotate={"limit": 90, "p": 1},
    shift={"limit": 0.3, "p": 1},
    shear={"limit": 30, "p": 1},
    color_jitter={"p": 1},
    blur={"p": 0.5},
    noise={"p": 0.5},
)


@pytest.fixture
def pair() -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (70, 60))
    mask = rng.choice(np.array([0, 3, 20, VOID], np.uint8), (60, 70))
    return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)


def same(first: tuple[Pixels, Pixels], second: tuple[Pixels, Pixels]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_seed_gives_the_same_bytes_whatever_came_before(pair: tuple[Pixels, Pixels]) -> None:
    policy = build_policy(STRONG)
    first = [policy(*pair, seed) for seed in range(20)]
    for seed in reversed(range(20)):
        np.random.seed(seed)
        random.seed(seed)
        assert same(policy(*pair, seed), first[seed])
    assert not same(first[0], first[1])


def test_the_global_generators_are_left_alone(pair: tuple[Pixels, Pixels]) -> None:
    policy = build_policy(STRONG)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    policy(*pair, 5)
    after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert before == after


def test_parts_act_independently_of_each_other(pair: tuple[Pixels, Pixels]) -> None:
    """Seeding each transform alike, as `set_random_seed` does, makes rare parts act together."""
    policy = build_policy(
        params(flip={"p": 0.5}, color_jitter={"p": 0.5}, blur={"p": 0.2}, noise={"p": 0.2})
    )
    image, mask = pair[0][:4, :4], pair[1][:4, :4]
    acted = []
    for seed in range(1500):
        policy(image, mask, seed)
        warp, *colours = policy.compose.transforms
        acted.append([warp.params["flip"], *(bool(part.params) for part in colours)])
    found = np.array(acted, dtype=float)
    assert found.mean(axis=0) == pytest.approx([0.5, 0.5, 0.2, 0.2], abs=0.06)
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.13


def test_what_is_written_reads_back_as_the_same_policy(pair: tuple[Pixels, Pixels]) -> None:
    policy = build_policy(STRONG)
    read = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    carried = pickle.loads(pickle.dumps(policy))
    assert read.crop == carried.crop == (48, 40)
    for seed in range(20):
        expected = policy(*pair, seed)
        assert same(read(*pair, seed), expected)
        assert same(carried(*pair, seed), expected)


def test_parts_of_probability_zero_are_left_out() -> None:
    def names(policy: Policy) -> list[str]:
        return [type(part).__name__ for part in policy.compose.transforms]

    assert names(build_policy(params())) == [
        "Warp", "ColorJitter", "GaussianBlur", "GaussianNoise",
    ]  # fmt: skip
    assert names(build_policy(params(blur={"p": 0}, color_jitter={"p": 0}))) == [
        "Warp", "GaussianNoise",
    ]  # fmt: skip


def test_with_everything_off_a_policy_is_the_identity(pair: tuple[Pixels, Pixels]) -> None:
    parts = ("scale", "flip", "rotate", "shift", "shear", "color_jitter", "blur", "noise")
    policy = build_policy(params(crop=[60, 70], **{part: {"p": 0} for part in parts}))
    assert same(policy(*pair, 3), pair)


def test_every_parameter_reaches_the_policy() -> None:
    changed = AugmentParams.model_validate(
        {
            "crop": [11, 13],
            "scale": {"range": [0.6, 1.7], "p": 0.91},
            "flip": {"p": 0.41},
            "rotate": {"limit": 17, "p": 0.31},
            "shift": {"limit": 0.07, "p": 0.32},
            "shear": {"limit": 6, "p": 0.21},
            "color_jitter": {
                "brightness": 0.22, "contrast": 0.23, "saturation": 0.24, "hue": 0.06, "p": 0.51,
            },
            "cat_max_ratio": 0.75,
            "photometric": {
                "brightness": 30, "contrast": [0.6, 1.4], "saturation": [0.7, 1.3], "hue": 36,
                "p": 0.52,
            },
            "blur": {"sigma": [0.4, 1.3], "p": 0.11},
            "noise": {"std": [0.02, 0.06], "p": 0.12},
        }
    )  # fmt: skip
    written = build_policy(changed).to_json()["transform"]["transforms"]
    found = [{k: v for k, v in part.items() if k != "__class_fullname__"} for part in written]
    assert json.loads(json.dumps(found)) == [
        {
            "size": [11, 13], "scale": [0.6, 1.7], "scale_p": 0.91, "flip_p": 0.41, "rotate": 17,
            "rotate_p": 0.31, "shift": 0.07, "shift_p": 0.32, "shear": 6, "shear_p": 0.21,
            "cat_max_ratio": 0.75, "fill": [124, 116, 104], "fill_mask": 255, "p": 1.0,
        },
        {"brightness": 0.22, "contrast": 0.23, "saturation": 0.24, "hue": 0.06, "p": 0.51},
        {
            "brightness": 30, "contrast": [0.6, 1.4], "saturation": [0.7, 1.3], "hue": 36,
            "p": 0.52,
        },
        {"sigma": [0.4, 1.3], "p": 0.11},
        {"std": [0.02, 0.06], "p": 0.12},
    ]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 10_000))
def test_masks_keep_their_ids_and_crops_their_size(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 7, 200, VOID], np.uint8), (height, width))
    image.flags.writeable = mask.flags.writeable = False
    crop, crop_mask = build_policy(STRONG)(image, mask, seed)
    assert crop.shape == (48, 40, 3)
    assert crop.dtype == crop_mask.dtype == np.uint8
    assert set(np.unique(crop_mask)) <= {*np.unique(mask), VOID}


def test_an_image_that_is_all_void_stays_all_void(pair: tuple[Pixels, Pixels]) -> None:
    void = np.full(pair[1].shape, VOID, np.uint8)
    assert (build_policy(STRONG)(pair[0], void, 1)[1] == VOID).all()


def test_image_and_mask_of_two_sizes_are_refused(pair: tuple[Pixels, Pixels]) -> None:
    with pytest.raises(ValueError, match="Height and Width"):
        build_policy(STRONG)(pair[0], pair[1][:-1], 0)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"__version__": "2.0.8"}, {"__version__": "2.0.8", "transform": {}}]
)
def test_what_is_no_policy_is_refused(content: Any) -> None:
    with pytest.raises(SegopsError, match="not an augmentation policy"):
        Policy.from_json(content)


def test_policies_of_another_version_or_without_a_warp_are_refused() -> None:
    content = build_policy(params()).to_json()
    with pytest.raises(SegopsError, match=r"Albumentations 1\.4\.0"):
        Policy.from_json({**content, "__version__": "1.4.0"})
    content["transform"]["transforms"].pop(0)
    with pytest.raises(SegopsError, match="Warp with p=1"):
        Policy.from_json(content)


def test_sample_seeds_are_fixed_and_differ() -> None:
    assert sample_seed(0, 0, 0) == 5842066033578894005
    seeds = {sample_seed(s, e, i) for s in range(10) for e in range(10) for i in range(-1, 50)}
    assert len(seeds) == 10 * 10 * 51
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
