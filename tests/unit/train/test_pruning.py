"""A training that starts from a model without a share of its channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segops.models.pruning import prune
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec, build
from segops.train.loop import Job, train
from segops.train.start import Start
from tests.support.bundles import write_bundle
from tests.support.training import Jobs, assert_equal, interrupt, same, teacher_of
from tests.unit.train.test_engine import engine_of

SPEC = ModelSpec("unet", "tu-test_resnet", len(VOC_CLASSES), {"decoder_channels": [16, 8, 8, 8, 8]})
SHARE = 0.3


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    torch.manual_seed(5)
    directory = tmp_path_factory.mktemp("start")
    write_bundle(directory, build(SPEC), SPEC, VOC_CLASSES, {}, {})
    return Start.of(directory, "there")


def smaller(made: Job, start: Start) -> Job:
    start = start.pruned(SPEC, SHARE)
    return replace(made, spec=replace(made.spec, pruned_shapes=start.pruned_shapes), start=start)


def given(name: str, job: Jobs, start: Start, more: Any = None, **params: Any) -> Job:
    model = {"architecture": SPEC.architecture, "encoder": SPEC.encoder, "options": SPEC.options}
    return smaller(job(name, more=more, **model, **params), start)


def test_it_starts_from_the_weights_that_pruning_left(job: Jobs, start: Start) -> None:
    shapes, weights = prune(SPEC, start.weights, SHARE)
    engine = engine_of(given("run", job, start))
    assert same(dict(engine.network.state_dict()), weights)
    pruned = start.pruned(SPEC, SHARE)
    assert pruned.pruned_shapes == shapes
    assert pruned.sha256 == start.sha256  # the model that the record names
    assert len({one.left for one in (start, pruned, start.pruned(SPEC, 0.5))}) == 3


def test_a_pruned_model_is_a_model_to_start_from(job: Jobs, start: Start, tmp_path: Path) -> None:
    shapes, weights = prune(SPEC, start.weights, SHARE)
    spec = replace(SPEC, pruned_shapes=shapes)
    network = build(spec)
    network.load_state_dict(weights)
    write_bundle(tmp_path / "small", network, spec, VOC_CLASSES, {}, {})
    again = Start.of(tmp_path / "small", "small")
    assert {name: list(one) for name, one in again.pruned_shapes.items()} == shapes
    assert same(dict(again.weights), weights)
    assert again.pruned(replace(SPEC, pruned_shapes=again.pruned_shapes), 0.5).left


@pytest.mark.slow
def test_a_resumed_training_equals_the_unbroken_one(
    job: Jobs, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a teacher, an auxiliary head and a moving average."""
    teacher = teacher_of(ModelSpec("plain_cnn", "", len(VOC_CLASSES), {"width": 4}), tmp_path)
    more = {"teacher": teacher, "auxiliary_weight": 0.4}
    params: dict[str, Any] = {"teacher": "there", "ema_decay": 0.5, "epochs": 2, "more": more}
    unbroken = train(given("unbroken", job, start, **params))
    interrupt(given("broken", job, start, **params), 3, monkeypatch)
    assert_equal(train(given("broken", job, start, **params)), unbroken)
    sizes = [sum(one.numel() for one in network.parameters())
             for network in (unbroken.network, build(SPEC))]  # fmt: skip
    assert sizes[0] < 0.7 * sizes[1]
