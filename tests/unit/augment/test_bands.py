"""Augmentation of other than three channels: geometry acts on all, colours on the first three."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segops.augment.policy import Policy, build_policy, sample_seed
from segops.augment.proof import prove
from segops.params.augment import AugmentParams
from segops.runtime.errors import SegopsError

CHANNELS = (2, 4, 5, 16)
OFF = {key: {"p": 0.0} for key in ("scale", "flip", "rotate", "shift", "shear", "blur", "noise")}
STILL = {**OFF, "color_jitter": {"p": 0.0}, "crop": (40, 48)}
SEEDS = [sample_seed(0, 0, number) for number in range(6)]


def policy(channels: int, **changes: Any) -> Policy:
    params = AugmentParams.model_validate({**STILL, **changes})
    return build_policy(params, (50,) * channels)


def sample(channels: int, side: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(channels)
    return (
        rng.integers(0, 256, (side, side + 8, channels), dtype=np.uint8),
        rng.integers(0, 3, (side, side + 8), dtype=np.uint8),
    )


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("side", [30, 100])
def test_the_warp_moves_every_channel_alike(channels: int, side: int) -> None:
    moved = {
        "scale": {"range": (0.3, 1.5), "p": 1.0},
        "rotate": {"limit": 20, "p": 1.0},
        "flip": {"p": 0.5},
    }
    image, mask = sample(channels, side)
    image[...] = image[..., :1]  # all channels alike, and the fill: so are those of the crop
    both = policy(channels, **moved)
    for seed in SEEDS:
        crop, crop_mask = both(image, mask, seed)
        assert crop.shape == (40, 48, channels)
        other, other_mask = policy(3, **moved)(image[..., [0, 0, 0]], mask, seed)
        np.testing.assert_array_equal(crop_mask, other_mask)
        difference = crop.astype(int) - other[..., :1]
        assert np.abs(difference).max() <= 1  # OpenCV's warps of 3 and of 4 channels round apart


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    "change",
    [
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "p": 1.0}},
        {"photometric": {"p": 1.0}},
    ],
)
def test_colours_are_the_first_three_channels(channels: int, change: dict[str, Any]) -> None:
    image, mask = sample(channels)
    coloured = 3 if channels > 3 else 1
    changed = 0
    for seed in SEEDS:
        before, _ = policy(channels)(image, mask, seed)
        after, _ = policy(channels, **change)(image, mask, seed)
        np.testing.assert_array_equal(after[..., coloured:], before[..., coloured:])
        changed += not np.array_equal(after, before)
        if channels > 3:
            rgb, _ = policy(3, **change)(np.ascontiguousarray(image[..., :3]), mask, seed)
            np.testing.assert_array_equal(after[..., :3], rgb)
    assert changed >= 3


@pytest.mark.parametrize("channels", CHANNELS)
def test_blur_and_noise_act_on_all_channels(channels: int) -> None:
    image, mask = sample(channels)
    before, _ = policy(channels)(image, mask, 1)
    for change in ("blur", "noise"):
        after, _ = policy(channels, **{change: {"p": 1.0}})(image, mask, 1)
        assert (after != before).any(axis=(0, 1)).all()


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_whole_policy_is_proved_on_all_channels(channels: int) -> None:
    whole = build_policy(AugmentParams(crop=(40, 48)), tuple(range(channels)))
    assert prove(whole, [("one", *sample(channels, 200))], SEEDS[:2]) == 2


def test_a_transform_that_takes_rgb_alone_is_named() -> None:
    extra = policy(5, extra=[{"name": "RandomFog", "p": 1.0}])
    with pytest.raises(SegopsError, match=r"RandomFog: .*\(images have 5 channels\)"):
        prove(extra, [("one", *sample(5))], SEEDS[:1])


def test_an_image_of_other_channels_than_the_policy_is_an_error() -> None:
    with pytest.raises(ValueError, match="image of 4 channels, fill of 3"):
        policy(3)(*sample(4), 1)
