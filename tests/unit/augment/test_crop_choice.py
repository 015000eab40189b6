"""A crop in which one class prevails is drawn again; otherwise nothing changes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segops.augment.geometry import REDRAWS, Affine, Warp, Window
from segops.augment.policy import build_policy
from segops.params.augment import AugmentParams
from segops.runtime.classes import VOID

Pixels = NDArray[np.uint8]

ANY: dict[str, Any] = {
    "scale": (0.5, 2.0),
    "scale_p": 1.0,
    "flip_p": 0.5,
    "rotate": 10.0,
    "rotate_p": 0.5,
    "shift": 0.1,
    "shift_p": 0.5,
    "shear": 5.0,
    "shear_p": 0.5,
}

MAPS = [
    (-0.610899073, 0.008890988, 35.168666968, -0.043587553, 0.611533444, 2.424611636),
    (-0.564516973, 0.009953999, 43.938312268, 0.009953999, 0.564516973, 2.109986432),
    (-0.520361422, 0.0, 19.253372624, 0.0, 0.520361422, 2.601807111),
]
"""What the version before the choice drew for seeds 0 to 2."""


class WatchedWarp(Warp):
    """A warp that keeps every candidate and what it was judged to be."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.judged: list[tuple[dict[str, Any], bool]] = []

    def _is_varied(self, mask: Pixels, to_source: Affine, window: Window) -> bool:
        verdict = super()._is_varied(mask, to_source, window)
        self.judged.append(({"to_source": to_source, "window": window}, verdict))
        return verdict


def run(warp: Warp, mask: Pixels, seed: int) -> Pixels:
    warp.set_random_state(np.random.default_rng(seed), random.Random(seed))
    image = np.zeros((*mask.shape, 3), np.uint8)
    return np.asarray(warp(image=image, mask=mask)["mask"])


def patches(seed: int, height: int = 300, width: int = 360) -> Pixels:
    """Mostly class 0, with a few objects and some void."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for c in (3, 7, VOID, 12):
        top, left = rng.integers(0, height - 90), rng.integers(0, width - 90)
        mask[top : top + 90, left : left + 80] = c
    return mask


def largest_share(crop: Pixels) -> float:
    counts = np.bincount(crop[crop != VOID], minlength=1)
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


def test_draws_are_what_they_were_when_it_is_off() -> None:
    """Maps of the version before it."""
    warp = Warp(size=(20, 30), **ANY)
    for seed, expected in enumerate(MAPS):
        run(warp, np.zeros((40, 50), np.uint8), seed)
        assert warp.params["to_source"] == pytest.approx(expected, abs=1e-8)


def test_a_crop_that_pleases_at_once_is_the_one_drawn_without_it() -> None:
    mask = np.random.default_rng(0).integers(0, 21, (300, 360)).astype(np.uint8)
    plain, choosing = (Warp(size=(128, 128), cat_max_ratio=ratio, **ANY) for ratio in (1.0, 0.75))
    for seed in range(20):
        assert np.array_equal(run(plain, mask, seed), run(choosing, mask, seed))


@pytest.mark.parametrize(("size", "tolerance"), [((128, 130), 0.0), ((300, 290), 0.04)])
def test_the_first_candidate_that_pleases_is_taken(size: tuple[int, int], tolerance: float) -> None:
    """Judged on the crop itself; on a coarser grid, where the share is not near the limit."""
    redrawn = 0
    for seed in range(40):
        mask = patches(seed)
        warp = WatchedWarp(size=size, cat_max_ratio=0.75, **ANY)
        found = run(warp, mask, seed)
        verdicts = [verdict for _, verdict in warp.judged]
        assert len(verdicts) <= REDRAWS
        assert not any(verdicts[:-1])
        redrawn += len(verdicts) > 1
        for drawn, verdict in warp.judged:
            share = largest_share(warp.apply_to_mask(mask, drawn["to_source"], drawn["window"]))
            if abs(share - 0.75) > tolerance:
                assert verdict == (share < 0.75)
        if verdicts[-1]:
            taken = warp.judged[-1][0]
            crop = warp.apply_to_mask(mask, taken["to_source"], taken["window"])
            assert np.array_equal(found, crop)
        # Only its place is drawn again.
        maps = [drawn["to_source"] for drawn, _ in warp.judged]
        assert len({(a, b, d, e) for a, b, _, d, e, _ in maps}) == 1
    assert redrawn > 5


@pytest.mark.parametrize("fill", [5, VOID])
def test_where_nothing_pleases_the_eleventh_is_taken(fill: int) -> None:
    warp = WatchedWarp(size=(64, 64), cat_max_ratio=0.5, **ANY)
    mask = np.full((200, 200), fill, np.uint8)
    found = run(warp, mask, 3)
    assert found.shape == (64, 64)
    assert len(warp.judged) == REDRAWS
    places = {drawn["to_source"] for drawn, _ in warp.judged}
    assert len(places) > 1
    assert warp.params["to_source"] not in places


def test_crops_in_which_one_class_prevails_become_fewer() -> None:
    shares = {
        ratio: [
            largest_share(run(Warp(size=(100, 100), cat_max_ratio=ratio, **ANY), patches(k), k))
            for k in range(120)
        ]
        for ratio in (1.0, 0.75)
    }
    prevailing = {ratio: np.mean([one >= 0.75 for one in found]) for ratio, found in shares.items()}
    assert prevailing[1.0] > 0.5
    assert prevailing[0.75] < 0.5 * prevailing[1.0]


def test_a_policy_draws_it_from_the_seed_alone_and_for_any_executor() -> None:
    policy = build_policy(AugmentParams(crop=(96, 96), cat_max_ratio=0.6))
    mask = patches(1)
    image = np.repeat(mask[..., None], 3, axis=2)
    warp = policy.compose.transforms[0]
    for seed in range(10):
        first, second = policy(image, mask, seed)[1], policy(image, mask, seed)[1]
        assert np.array_equal(first, second)
        drawn = policy.draw(image, mask, seed)[0]
        assert drawn is not None
        crop = warp.apply_to_mask(mask, drawn["to_source"], drawn["window"])
        assert np.array_equal(crop, first)
