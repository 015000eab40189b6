"""The views of an image without a mask: one geometry, other colours, the same for the same seed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from segops.augment.geometry import Pixels
from segops.augment.policy import Policy, build_policy
from segops.augment.views import Views
from segops.params.augment import AugmentParams
from segops.runtime.classes import VOID


def image(seed: int, height: int = 50, width: int = 70, channels: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build_policy(AugmentParams(crop=(40, 48), cat_max_ratio=0.75))


def test_both_views_show_the_same_place(policy: Policy) -> None:
    """Where the grey levels of a ramp lie tells the place, whatever happens to the colours."""
    ramp = np.zeros((50, 70, 3), np.uint8)
    ramp[..., :] = np.arange(40, 40 + 2 * 70, 2, dtype=np.uint8)[None, :, None]
    views = Views(policy, strong=True)
    changed = 0
    for seed in range(20):
        both, padding = views(ramp, seed)
        weak, strong = both[..., :3], both[..., 3:]
        assert both.shape == (40, 48, 6)
        assert (weak.shape[:2], padding.shape) == (views.crop, views.crop)
        seen = padding != VOID
        ranks = np.corrcoef(weak[..., 0][seen], strong[..., 0][seen])[0, 1]
        assert ranks > 0.9
        changed += not np.array_equal(weak, strong)
    assert changed > 10


def test_the_weak_view_has_the_policy_s_geometry_and_the_photograph_s_colours() -> None:
    plain = AugmentParams(crop=(40, 48), color_jitter={"p": 0}, blur={"p": 0}, noise={"p": 0})
    coloured = AugmentParams(crop=(40, 48), color_jitter={"p": 1}, noise={"p": 1})
    for seed in range(5):
        given = image(seed)
        empty = np.zeros(given.shape[:2], np.uint8)
        expected, padding = build_policy(plain)(given, empty, seed)
        weak, own = Views(build_policy(coloured), strong=False)(given, seed)
        assert np.array_equal(weak, expected)
        assert np.array_equal(own, padding)


def test_a_seed_gives_the_same_bytes_also_in_another_process(policy: Policy) -> None:
    views = Views(policy, strong=True)
    other = pickle.loads(pickle.dumps(views))
    found = [views(image(1), seed)[0] for seed in (3, 4, 3)]
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(other(image(1), 3)[0], found[0])


def test_images_of_other_channels(policy: Policy) -> None:
    bands = build_policy(AugmentParams(crop=(40, 48)), fill=(0,) * 5)
    both, _ = Views(bands, strong=True)(image(2, channels=5), 1)
    assert both.shape == (40, 48, 10)
