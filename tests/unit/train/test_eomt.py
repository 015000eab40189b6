"""A training of queries: it learns, goes on exactly, and withdraws its masking step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segops.runtime.classes import VOID
from segops.runtime.networks.eomt import EoMT
from segops.train import loop
from segops.train.loop import train
from tests.support.training import Jobs, assert_equal, interrupt
from tests.unit.train.test_engine import engine_of

GIVEN: dict[str, Any] = {
    "architecture": "eomt",
    "encoder": "tu-test_vit",
    "options": {"queries": 24, "blocks": 2},
    "loss": "mask_classification",
    "lr": 0.001,
}


OTHERWISE = {"precision": "bf16", "accumulate": 3, "ema_decay": 0.9}


@pytest.mark.parametrize("more", [{}, pytest.param(OTHERWISE, marks=pytest.mark.slow)])
def test_a_resumed_training_equals_the_unbroken_one(
    job: Jobs, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = GIVEN | {"epochs": 2} | more
    unbroken = train(job("unbroken", **given))
    interrupt(job("broken", **given), 3, monkeypatch)
    torch.rand(7)
    assert_equal(train(job("broken", **given)), unbroken)


def test_the_steps_decide_which_queries_are_masked(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    take = loop._Training._take_step

    def noted(self: Any, images: Any, masks: Any) -> None:
        take(self, images, masks)
        network = self.engine.network.network
        assert isinstance(network, EoMT)
        shares.append(network.mask_shares.tolist())

    monkeypatch.setattr(loop._Training, "_take_step", noted)
    assert train(job(**GIVEN, epochs=4, selection_share=0)).steps == 16
    assert shares[0] == shares[4] == [1, 1]
    assert shares[6] == [pytest.approx(0.5**0.9), 1]
    assert shares[12:] == [[0, 0]] * 4


@pytest.mark.slow
def test_it_learns_the_masks_of_a_batch(job: Jobs) -> None:
    """And shows them as it is shipped, without masking, which was withdrawn meanwhile."""
    given, steps = job(**GIVEN, selection_share=0), 110
    engine = engine_of(given)
    store = given.store
    names = store.ids("train")[:4]
    images, masks = (
        torch.stack([torch.from_numpy(np.array(of(name)[:64, :64])) for name in names])
        for of in (store.image, store.mask)
    )
    images = images.permute(0, 3, 1, 2)
    for number in range(steps):
        left = 1 - number / steps
        engine.step(
            images, masks, number, min(0.001, 0.0001 * (number + 1)) * left, progress=1 - left
        )
    with torch.no_grad():
        found = engine.network.eval()(images).argmax(dim=1)
    objects = (masks != VOID) & (masks != 0)
    assert len(masks[objects].unique()) > 3
    assert (found == masks)[objects].float().mean() > 0.85
    assert (found == masks)[masks == 0].float().mean() > 0.9
