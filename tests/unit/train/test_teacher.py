"""A training with a teacher: what it learns, that it repeats, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segops.models.losses import SoftTargets
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from segops.train.loop import Job, train
from segops.train.teacher import Teacher
from tests.support.training import Jobs, assert_equal, interrupt, same, teacher_of
from tests.unit.models.test_losses import loss_named
from tests.unit.train.test_engine import NARROW, PLAIN, batch, engine_of, weights

SHARE, TEMPERATURE = 0.25, 3.0
WITH: dict[str, Any] = {
    **NARROW,
    "teacher": "there",
    "distillation": {"weight": SHARE, "temperature": TEMPERATURE},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Of an architecture that has batch norm and draws dropout in training."""
    spec = ModelSpec("pspnet", "resnet18", len(VOC_CLASSES), {"psp_out_channels": 32})
    return teacher_of(spec, tmp_path_factory.mktemp("teacher"))


def test_a_step_follows_masks_and_teacher_by_their_shares(job: Jobs, teacher: Teacher) -> None:
    more = {"more": {"teacher": teacher}}
    engine = engine_of(job(**PLAIN, **WITH, **more))
    before, (images, masks) = weights(engine), batch()
    loss = engine.step(images, masks, 0, 1.0)

    reference = engine_of(job(**PLAIN, **NARROW))
    logits = reference.network(images)
    with torch.no_grad():
        wanted = teacher.network()(images)
    expected = (1 - SHARE) * loss_named("cross_entropy")(logits, masks)
    expected = expected + SHARE * SoftTargets(TEMPERATURE)(logits, wanted, masks)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, one in reference.network.named_parameters():
        assert one.grad is not None
        change = before[name] - weights(engine)[name]
        torch.testing.assert_close(change, one.grad, atol=1e-5, rtol=1e-4)


def test_an_auxiliary_head_learns_from_the_masks_alone(job: Jobs, teacher: Teacher) -> None:
    unet = {"architecture": "unet", "options": {"decoder_channels": [8, 8, 8, 8, 8]}}
    given = {**PLAIN, **WITH, **unet, "distillation": {"weight": 1.0, "temperature": 1.0}}
    more = {"auxiliary_weight": 0.4}
    engine = engine_of(job(**given, more={**more, "teacher": teacher}))
    images, masks = batch()
    loss = engine.step(images, masks, 0, 0.0)
    reference = engine_of(job(**PLAIN, **unet, more=more))
    network: Any = reference.network
    reference._seed(0)  # the auxiliary head draws dropout
    with torch.no_grad():
        logits, auxiliary = network(images, with_auxiliary=True)
        wanted = teacher.network()(images)
    expected = SoftTargets(1.0)(logits, wanted, masks)
    expected = expected + 0.4 * loss_named("cross_entropy")(auxiliary, masks)
    torch.testing.assert_close(loss, expected)


def test_the_teacher_stays_as_it_is(job: Jobs, teacher: Teacher) -> None:
    engine = engine_of(job(**WITH, more={"teacher": teacher}))
    assert engine.teacher is not None
    before = {name: one.clone() for name, one in engine.teacher.state_dict().items()}
    engine.step(*batch(), 0, 1.0)
    engine.train_mode()
    engine.step(*batch(), 1, 1.0)
    assert same(before, engine.teacher.state_dict())
    assert not any(module.training for module in engine.teacher.modules())
    assert not any(one.requires_grad for one in engine.teacher.parameters())
    held = {name for name in engine.state()["network"] if "teacher" in name}
    assert not held


@pytest.mark.parametrize("steps", [2, 3])
def test_a_resumed_training_equals_the_unbroken_one(
    steps: int, job: Jobs, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {**WITH, "more": {"teacher": teacher}, "epochs": 2}
    unbroken = train(job("unbroken", **given))
    interrupt(job("broken", **given), steps, monkeypatch)
    assert_equal(train(job("broken", **given)), unbroken)
    assert not same(unbroken.last, train(job("alone", **NARROW, epochs=2)).last)


def test_with_batches_augmented_on_the_device(job: Jobs, teacher: Teacher) -> None:
    more = {"teacher": teacher, "augment_device": "gpu"}
    given = {**WITH, "more": more, "iterations": 2, "warmup_epochs": 0}
    assert_equal(train(job("again", **given)), train(job("first", **given)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(precision: str, job: Jobs, teacher: Teacher) -> None:
    given = {**WITH, "more": {"teacher": teacher}, "precision": precision}
    loss = engine_of(job(**given)).step(*batch(), 0, 0.0)
    exact = engine_of(job(**given | {"precision": "fp32"})).step(*batch(), 0, 0.0)
    torch.testing.assert_close(loss, exact, atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher(job: Jobs, tmp_path: Path) -> None:
    """A teacher that was trained briefly: masks and its predictions differ."""
    shared: dict[str, Any] = {"selection_share": 0, "warmup_epochs": 0, "loss": "cross_entropy"}
    trained = train(job("teacher", options={"width": 16}, epochs=6, **shared))
    spec = ModelSpec("plain_cnn", "", len(VOC_CLASSES), {"width": 16})
    teacher = teacher_of(spec, tmp_path / "bundle", trained.network)
    given: dict[str, Any] = {**shared, "options": {"width": 8}, "epochs": 20}
    alone = train(job("alone", **given))
    given |= {"teacher": "there", "distillation": {"weight": 0.9, "temperature": 1.0}}
    taught = train(job("taught", **given, more={"teacher": teacher}))
    apart = [_apart(one.network, teacher, job(**given)) for one in (taught, alone)]
    assert apart[0] < 0.5 * apart[1], apart


@torch.no_grad()
def _apart(network: nn.Module, teacher: Teacher, given: Job) -> float:
    """KL divergence of a network from its teacher on the images of train, in nats."""
    network.eval()
    guide, divergence, values = teacher.network(), SoftTargets(1.0), []
    for image_id in given.store.ids("train"):
        image = torch.from_numpy(np.array(given.store.image(image_id))).permute(2, 0, 1)[None]
        mask = torch.from_numpy(np.array(given.store.mask(image_id)))[None]
        values.append(divergence(network(image), guide(image), mask))
    return float(torch.stack(values).mean())


def test_other_classes_are_named(tmp_path: Path) -> None:
    spec = ModelSpec("plain_cnn", "", 3)
    given = teacher_of(spec, tmp_path / "bundle", names=("ground", "cat", "dog"))
    assert given.model == "there"
    for names, words in (
        (("ground", "dog", "cat"), "class 1 is 'cat', expected 'dog'"),
        (("ground", "cat"), "class 2 is 'dog', expected missing"),
        (("ground", "cat", "dog", "cow"), "class 3 is missing, expected 'cow'"),
    ):
        with pytest.raises(SegopsError, match=rf"train\.teacher: there: .*{words}"):
            Teacher.of(tmp_path / "bundle", "there", names, 3)
    with pytest.raises(SegopsError, match=r"train\.teacher: there: .*3 channels; the data has 4"):
        Teacher.of(tmp_path / "bundle", "there", ("ground", "cat", "dog"), 4)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="not a model bundle"):
        Teacher.of(tmp_path, "there", VOC_CLASSES, 3)
