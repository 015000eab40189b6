"""The discriminator of a training: who learns from whom, and that it repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segops.models.discriminator import prediction_maps
from segops.models.losses import judgement_loss, pseudo_label_loss
from segops.runtime.classes import VOID
from segops.train.adversary import Adversary
from segops.train.loop import train
from tests.support.training import Jobs, assert_equal, interrupt, same
from tests.unit.models.test_losses import loss_named
from tests.unit.train.test_engine import NARROW, PLAIN, batch, engine_of, weights
from tests.unit.train.test_mean_teacher import views

WEIGHT = 0.3
WITH: dict[str, Any] = {
    **NARROW,
    "adversarial": {"weight": WEIGHT, "unlabelled_weight": 0.2, "self_taught_weight": 0.4},
}


def discriminator(adversary: Adversary | None) -> dict[str, torch.Tensor]:
    assert adversary is not None
    return {name: one.clone() for name, one in adversary.network.state_dict().items()}


def test_a_step_lowers_the_sum_of_both_losses(unlabelled_job: Jobs) -> None:
    engine = engine_of(unlabelled_job(**PLAIN, **WITH))
    before, (images, masks) = weights(engine), batch()
    loss = engine.step(images, masks, 0, 1.0)

    reference = engine_of(unlabelled_job(**PLAIN, **WITH))
    assert reference.adversary is not None
    logits = reference.network(images)
    scores = reference.adversary.network(prediction_maps(logits, masks))
    deceived = judgement_loss(scores, masks, is_mask=True)
    expected = loss_named("cross_entropy")(logits, masks) + WEIGHT * deceived
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(engine.figures["adversarial_loss"], deceived.detach())
    for name, one in reference.network.named_parameters():
        assert one.grad is not None
        change = before[name] - weights(engine)[name]
        torch.testing.assert_close(change, one.grad, atol=1e-5, rtol=1e-4)


def test_gradients_of_either_loss_reach_one_network_alone(unlabelled_job: Jobs) -> None:
    engine = engine_of(unlabelled_job(**PLAIN, **WITH))
    adversary = engine.adversary
    assert adversary is not None
    images, masks = batch()
    adversary.deceived(engine.network(images), masks).backward()
    assert all(one.grad is None for one in adversary.network.parameters())
    assert any(one.grad is not None for one in engine.network.parameters())
    engine.network.zero_grad()
    adversary.learn(engine.network(images), masks, 1.0)
    assert all(one.grad is not None for one in adversary.network.parameters())
    assert all(one.grad is None for one in engine.network.parameters())


def test_without_a_rate_neither_network_moves_and_with_one_both_do(unlabelled_job: Jobs) -> None:
    engine = engine_of(unlabelled_job(**PLAIN, **WITH))
    first = discriminator(engine.adversary)
    engine.step(*batch(), 0, 0.0, views())
    assert same(discriminator(engine.adversary), first)
    engine.step(*batch(), 1, 0.1, views())
    assert not same(discriminator(engine.adversary), first)


def test_the_discriminator_learns_from_masks_and_predictions(unlabelled_job: Jobs) -> None:
    given = WITH | {"adversarial": {"weight": WEIGHT, "lr": 1e-3}, "lr": 1e-3}
    engine = engine_of(unlabelled_job(**given))
    losses = []
    for number in range(10):
        engine.step(*batch(), number, 1e-3)
        losses.append(float(engine.figures["discriminator_loss"]))
    assert losses[0] == pytest.approx(0.693, abs=0.02)
    assert losses[-1] < 0.7 * losses[0]


def test_predictions_that_are_taken_for_masks_teach(unlabelled_job: Jobs) -> None:
    """With a discriminator that believes all, or nothing; padding teaches nothing."""
    engine = engine_of(unlabelled_job(**PLAIN, **WITH))
    adversary = engine.adversary
    assert adversary is not None
    both, padding = views()
    logits = engine.network(both[:, :3]).detach().requires_grad_()
    for bias, believed in ((20.0, True), (-20.0, False)):
        last = adversary.network[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
        logits.grad = None
        loss, figures = adversary.unlabelled_loss(logits, padding)
        loss.backward()
        assert logits.grad is not None
        if believed:
            labels = logits.detach().argmax(dim=1).where(padding != VOID, VOID)
            whole = pseudo_label_loss(logits.detach(), labels, torch.ones(labels.shape))
            torch.testing.assert_close(figures["self_taught_loss"], whole)
            moved = logits.grad.abs().sum(dim=1) > 0
            assert torch.equal(moved, padding != VOID)
        else:
            assert float(figures["self_taught_loss"]) == 0
    deceived = float(figures["unlabelled_adversarial_loss"])
    assert deceived == pytest.approx(20.0)
    assert float(loss.detach()) == pytest.approx(0.2 * deceived)


def test_a_pass_that_is_not_finite_changes_nothing(unlabelled_job: Jobs) -> None:
    """The discriminator, its moments and its count of steps stay; the next step is as without."""
    given = {**WITH, "adversarial": {"weight": WEIGHT, "lr": 1e-3}, "lr": 1e-3}
    disturbed, plain = (engine_of(unlabelled_job(**given)).adversary for _ in range(2))
    assert disturbed is not None
    assert plain is not None
    _, masks = batch()
    logits = torch.randn(4, 21, 64, 64, generator=torch.Generator().manual_seed(2))
    for adversary in (disturbed, plain):
        adversary.learn(logits, masks, 1.0)
        adversary.step(1e-3)
    before = discriminator(disturbed)
    disturbed.learn(logits * float("inf"), masks, 1.0)
    disturbed.step(1e-3)
    assert same(discriminator(disturbed), before)
    for adversary in (disturbed, plain):
        adversary.learn(logits, masks, 1.0)
        adversary.step(1e-3)
    assert not same(discriminator(disturbed), before)
    assert same(discriminator(disturbed), discriminator(plain))


def test_parts_of_a_batch_give_the_gradients_of_the_whole(unlabelled_job: Jobs) -> None:
    adversary = engine_of(unlabelled_job(**PLAIN, **WITH)).adversary
    assert adversary is not None
    _, masks = batch()
    logits = torch.randn(4, 21, 64, 64, generator=torch.Generator().manual_seed(2))
    adversary.learn(logits, masks, 1.0)
    whole = [one.grad.clone() for one in adversary.network.parameters()]
    adversary.optimizer.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        adversary.learn(logits[part], masks[part], 0.5)
    parts = [one.grad for one in adversary.network.parameters()]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-3)


def test_it_is_no_part_of_the_model_and_changes_none_of_its_random_numbers(
    unlabelled_job: Jobs,
) -> None:
    given = {**NARROW, "iterations": 1, "warmup_epochs": 0}
    with_it, without = (engine_of(unlabelled_job(**one)) for one in (WITH | given, given))
    assert same(with_it.network.state_dict(), without.network.state_dict())
    assert with_it.result.state_dict().keys() == train(unlabelled_job(**WITH | given)).last.keys()


def test_a_resumed_training_equals_the_unbroken_one(
    unlabelled_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both methods together: the discriminator's optimiser goes on, too."""
    both = {"ema_decay": 0.5, "mean_teacher": {"weight": 1.0, "confidence": 0.05}}
    given = {**WITH, **both, "epochs": 2, "batch_size": 2, "accumulate": 2}
    unbroken = train(unlabelled_job("unbroken", **given))
    interrupt(unlabelled_job("broken", **given), 3, monkeypatch)
    assert_equal(train(unlabelled_job("broken", **given)), unbroken)
    names = "adversarial_loss", "discriminator_loss", "unlabelled_adversarial_loss"
    assert {*names, "self_taught_loss", "pseudo_label_loss"} <= unbroken.rows[0].keys()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(precision: str, unlabelled_job: Jobs) -> None:
    given = {**WITH, "precision": precision}
    half, exact = (
        engine_of(unlabelled_job(**one)) for one in (given, given | {"precision": "fp32"})
    )
    losses = [one.step(*batch(2), 0, 0.0, views(2)) for one in (half, exact)]
    torch.testing.assert_close(*losses, atol=0.03, rtol=0.03)
    for name, one in half.figures.items():
        torch.testing.assert_close(one, exact.figures[name], atol=0.03, rtol=0.03)
