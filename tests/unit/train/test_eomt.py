"""A training of queries: it learns, goes on exactly, and withdraws its masking step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segops.runtime.networks.eomt import EoMT
from segops.train import loop
from segops.train.loop import train
from tests.support.training import Jobs, assert_equal, interrupt

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
def test_it_learns_the_sample(job: Jobs) -> None:
    outcome = train(job(**GIVEN | {"epochs": 40, "selection_share": 0, "batch_size": 4}))
    losses = [row["train_loss"] for row in outcome.rows]
    assert losses[-1] < 0.5 * losses[0]
