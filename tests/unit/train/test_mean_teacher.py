"""The mean teacher: who labels what, what is learned of it, and that it repeats."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segops.models.losses import pseudo_label_loss
from segops.params.hardware import HardwareParams
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.train.engine import Engine
from segops.train.hardware import build_fabric
from segops.train.loop import Job, train
from segops.train.mean_teacher import MeanTeacher
from segops.train.unlabelled import unlabelled_batches, unlabelled_ids
from segops.voc.layout import UNLABELLED
from tests.support.training import Jobs, assert_equal, interrupt, same
from tests.unit.models.test_losses import loss_named
from tests.unit.train.test_engine import NARROW, PLAIN, batch, engine_of, weights

WITH: dict[str, Any] = {
    **NARROW,
    "ema_decay": 0.5,
    "mean_teacher": {"weight": 0.7, "confidence": 0.05},
    "ramp_up_epochs": 1,
}
"""Untrained, the surest of 21 classes has a probability of about 0.06: all is a pseudo-label."""

SURE = 0.075
HALF_SURE = WITH | {"mean_teacher": {"weight": 0.7, "confidence": SURE}}


def sharpened(engine: Engine) -> Engine:
    """An engine whose network, and its average, are sure of some pixels and not of others."""
    assert engine.average is not None
    for network in (engine.network, engine.average.network):
        *_, last = (one for one in network.parameters() if one.ndim > 1)
        last.data *= 400
    return engine


def views(size: int = 4) -> tuple[Tensor, Tensor]:
    """Weak and strong views of smooth fields, 64 pixels wide, whose upper quarter is padding."""
    coarse = 255 * torch.rand(size, 6, 5, 5, generator=torch.Generator().manual_seed(7))
    both = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic")
    both = both.clamp(0, 255).to(torch.uint8)
    padding = torch.zeros(size, 64, 64, dtype=torch.uint8)
    padding[:, :16] = VOID
    return both.contiguous(memory_format=torch.channels_last), padding


def batches(job: Job, done: int = 0, steps: int = 9) -> list[tuple[Tensor, Tensor]]:
    found = unlabelled_batches(job, build_fabric(job.params)[0], steps, done, 0)
    return [(one[0].clone(), one[1].clone()) for one in found if one is not None]


def test_a_step_follows_masks_and_pseudo_labels_by_their_weights(unlabelled_job: Jobs) -> None:
    given = unlabelled_job(**PLAIN, **HALF_SURE)
    engine, reference = (sharpened(engine_of(given)) for _ in range(2))
    before, (images, masks), (both, padding) = weights(engine), batch(), views()
    loss = engine.step(images, masks, 3, 0.01, (both, padding), 0.5)

    judge = MeanTeacher(copy.deepcopy(reference.network), SURE, given.params.seed, engine.fabric)
    judge.begin(3)
    pseudo, figures = judge.loss(reference.network, both[:, :3], both[:, 3:], padding)
    assert 0.1 < float(figures["confident_share"]) < 0.9
    expected = loss_named("cross_entropy")(reference.network(images), masks) + 0.5 * 0.7 * pseudo
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(engine.figures["pseudo_label_loss"], pseudo.detach())
    for name, one in reference.network.named_parameters():
        assert one.grad is not None
        change = (before[name] - weights(engine)[name]) / 0.01
        torch.testing.assert_close(change, one.grad, atol=1e-3, rtol=1e-2)


def test_pseudo_labels_are_the_teacher_s_where_it_is_sure_and_nothing_is_padding(
    unlabelled_job: Jobs,
) -> None:
    """Each pixel of the student's image has the label of the image that it comes from."""
    engine = sharpened(engine_of(unlabelled_job(**PLAIN, **HALF_SURE)))
    assert engine.mean_teacher is not None
    teacher = engine.mean_teacher
    both, padding = views()
    weak, strong = both[:, :3], both[:, 3:]
    seen: list[Tensor] = []

    def student(shown: Tensor) -> Tensor:
        seen.append(shown)
        return engine.network(shown)

    teacher.begin(0)
    loss, figures = teacher.loss(student, weak, strong, padding)
    with torch.no_grad():
        probability, labels = teacher.network(weak).softmax(dim=1).max(dim=1)
        own = (seen[0] == strong).all(dim=1)
        assert (seen[0] == torch.where(own[:, None], strong, strong.roll(-1, 0))).all()
        assert 0.4 < float(own.float().mean()) < 0.6
        labels = torch.where(padding == VOID, VOID, labels)
        labels, probability = (
            torch.where(own, one, one.roll(-1, 0)) for one in (labels, probability)
        )
        trust = torch.where(probability >= SURE, probability, 0)
        expected = pseudo_label_loss(engine.network(seen[0]), labels, trust)
    torch.testing.assert_close(loss.detach(), expected)
    share = ((trust > 0) & (labels != VOID)).sum() / (labels != VOID).sum()
    assert 0.1 < share < 0.9
    torch.testing.assert_close(figures["confident_share"], share)


def test_below_its_confidence_it_teaches_nothing(unlabelled_job: Jobs) -> None:
    sure = WITH | {"mean_teacher": {"weight": 5.0, "confidence": 0.99}}
    engine, plain = (
        engine_of(unlabelled_job(**PLAIN, **one)) for one in (sure, NARROW | {"ema_decay": 0.5})
    )
    loss = engine.step(*batch(), 0, 1.0, views())
    torch.testing.assert_close(loss, plain.step(*batch(), 0, 1.0))
    assert float(engine.figures["pseudo_label_loss"]) == 0
    assert float(engine.figures["confident_share"]) == 0
    assert all(torch.allclose(one, weights(plain)[name]) for name, one in weights(engine).items())


def test_all_padding_teaches_nothing(unlabelled_job: Jobs) -> None:
    engine = engine_of(unlabelled_job(**PLAIN, **WITH))
    both, padding = views()
    engine.step(*batch(), 0, 1.0, (both, torch.full_like(padding, VOID)))
    assert float(engine.figures["pseudo_label_loss"]) == 0


def test_the_teacher_follows_the_student_and_takes_no_gradient(unlabelled_job: Jobs) -> None:
    engine = engine_of(unlabelled_job(**WITH))
    assert engine.average is not None
    engine.step(*batch(), 0, 0.1, views())
    assert not any(one.requires_grad for one in engine.average.network.parameters())
    assert not any(module.training for module in engine.average.network.modules())
    buffers = dict(engine.network.named_buffers())
    averages = engine.average.network.named_buffers()
    assert all(torch.equal(one, buffers[name]) for name, one in averages)


def test_parts_of_a_batch_are_averaged(unlabelled_job: Jobs) -> None:
    """Without batch norm's statistics and mixing, two parts learn what the whole does."""
    given = {**PLAIN, **WITH, "batch_size": 4}
    both, padding = views()
    halves = [one[:1].repeat(4, *[1] * (one.ndim - 1)) for one in (both, padding)]
    found = []
    for parts in (1, 2):
        engine = engine_of(unlabelled_job(**given, accumulate=parts))
        images, masks = (one[:1].repeat(4, *[1] * (one.ndim - 1)) for one in batch())
        engine.step(images, masks, 0, 1.0, (halves[0], halves[1]))
        found.append(engine.figures["pseudo_label_loss"])
    torch.testing.assert_close(found[0], found[1])


def test_the_batch_of_a_step_is_a_function_of_seed_and_step(unlabelled_job: Jobs) -> None:
    whole = batches(unlabelled_job(**WITH))
    assert len(whole) == 9
    for done in (1, 4, 8):
        for first, second in zip(whole[done:], batches(unlabelled_job(**WITH), done), strict=True):
            assert all(map(torch.equal, first, second))
    other = batches(unlabelled_job(**WITH, seed=1))
    assert not any(torch.equal(one[0], two[0]) for one, two in zip(whole, other, strict=True))
    assert {one[0].shape for one in whole} == {(3, 6, 64, 64)}


def test_it_warns_where_no_image_has_another_to_be_mixed_with(
    unlabelled_job: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    batches(unlabelled_job(**WITH | {"batch_size": 2, "accumulate": 1}))
    assert "CutMix" not in caplog.text
    batches(unlabelled_job(**WITH | {"batch_size": 2, "accumulate": 2}))
    assert "train.mean_teacher: a device takes one image at a time" in caplog.text


@pytest.mark.parametrize("steps", [2, 3])
def test_a_resumed_training_equals_the_unbroken_one(
    steps: int, unlabelled_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**WITH, "epochs": 2, "batch_size": 2}
    unbroken = train(unlabelled_job("unbroken", **given))
    interrupt(unlabelled_job("broken", **given), steps, monkeypatch)
    assert_equal(train(unlabelled_job("broken", **given)), unbroken)
    assert {"pseudo_label_loss", "confident_share"} <= unbroken.rows[0].keys()
    plain = train(unlabelled_job("plain", **given | {"mean_teacher": {"weight": 0}}))
    assert not same(unbroken.last, plain.last)
    assert "pseudo_label_loss" not in plain.rows[0]


def test_workers_change_nothing(unlabelled_job: Jobs) -> None:
    given = {**WITH, "iterations": 3}
    alone = train(unlabelled_job("alone", **given))
    made = unlabelled_job("workers", **given)
    made = replace(made, hardware=HardwareParams(workers=2, threads=1))
    assert_equal(train(made), alone)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(precision: str, unlabelled_job: Jobs) -> None:
    given = {**WITH, "mean_teacher": {"weight": 1.0, "confidence": 0.0}, "precision": precision}
    loss = engine_of(unlabelled_job(**given)).step(*batch(2), 0, 0.0, views(2))
    exact = engine_of(unlabelled_job(**given | {"precision": "fp32"}))
    torch.testing.assert_close(loss, exact.step(*batch(2), 0, 0.0, views(2)), atol=0.03, rtol=0.03)


def test_without_images_it_says_what_to_do(job: Jobs) -> None:
    assert unlabelled_ids(job()) == ()
    with pytest.raises(SegopsError, match=r"train\.mean_teacher: .*Set data\.unlabelled"):
        train(job(**WITH))


def test_images_without_masks_are_learned_from_only_where_they_are_asked_for(
    unlabelled_job: Jobs,
) -> None:
    assert unlabelled_ids(unlabelled_job()) == ()
    made = unlabelled_job(**WITH)
    assert unlabelled_ids(made) == made.store.ids(UNLABELLED)
    assert len(unlabelled_ids(made)) == 5
