"""Features of a frozen encoder: what they are, exact resume, and that an epoch costs the head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segops.data.selection_split import selection_split
from segops.runtime.errors import SegopsError
from segops.train import features, loop
from segops.train.features import Features
from segops.train.hardware import build_fabric, reproducible
from segops.train.job import on_images
from segops.train.loop import train
from segops.train.selection import selection_confusion
from segops.tune.rate import _losses
from tests.support.training import Jobs, assert_equal, interrupt, same

FROZEN: dict[str, Any] = {
    "architecture": "linear",
    "encoder": "tu-vit_tiny_patch16_224",
    "options": {"img_size": 64, "layers": 2},
    "frozen_views": 2,
    "precision": "fp32",
}


def kept(job: Any) -> tuple[loop._Training, Features]:
    fabric, device, _ = build_fabric(job.params)
    with reproducible(device, 1, job.params.deterministic):
        training = loop._Training(job, fabric, 0)
    assert training.features is not None
    return training, training.features


def test_they_are_the_encoders_of_every_view(job: Jobs) -> None:
    training, held = kept(job(**FROZEN))
    network, dataset = training.engine.network.eval(), training.dataset
    assert held.views.shape == (3 * len(dataset), 2 * 192, 4, 4)
    assert held.views.dtype == np.float16
    for index in (0, len(dataset) - 1):
        for view in range(3):
            source = dataset if view else replace(dataset, policy=dataset.policy.plain())
            image, mask = source[max(view - 1, 0), index]
            with torch.no_grad():
                expected = torch.cat(list(network.features(image[None])), dim=1)[0]
            row = 3 * index + view
            assert np.allclose(held.views[row], expected.numpy(), atol=2e-3, rtol=2e-3)
            assert np.array_equal(held.masks[row], mask.numpy())


def test_all_views_are_drawn_alike(job: Jobs) -> None:
    _, held = kept(job(**FROZEN))
    drawn = [held[epoch, 0][0].numpy() for epoch in range(60)]
    counts = [sum(np.array_equal(one, held.views[view]) for one in drawn) for view in range(3)]
    assert sum(counts) == 60
    assert min(counts) >= 10


def test_an_epoch_never_runs_the_encoder_and_leaves_it_as_it_is(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(**FROZEN)
    training, _ = kept(given)
    encoder = training.engine.network.encoder
    assert encoder is not None
    before = {name: one.clone() for name, one in encoder.state_dict().items()}
    monkeypatch.setattr(type(encoder), "forward", None)  # whoever calls it fails
    with reproducible("cpu", 1, True):
        outcome = training.run()
    assert same(outcome.network.encoder.state_dict(), before)  # type: ignore[union-attr]
    assert outcome.rows[-1]["train_loss"] < outcome.rows[0]["train_loss"]


def test_the_selection_split_is_scored_as_by_the_whole_network(job: Jobs) -> None:
    given = job(**FROZEN)
    training, held = kept(given)
    _, ids = selection_split(given.store.ids("train"), given.params.selection_share)
    whole = selection_confusion(training.predictor, given.store, ids, training.fabric)
    by_features = selection_confusion(
        training.predictor, given.store, ids, training.fabric, held.selection
    )
    assert whole.sum() == by_features.sum() > 0
    assert np.abs(whole - by_features).sum() <= 0.02 * whole.sum()  # float16


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9, "layer_decay": 0.8}])
def test_a_resumed_training_equals_the_unbroken_one(
    more: dict[str, Any], job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train(job("unbroken", **FROZEN, **more))
    interrupt(job("broken", **FROZEN, **more), 4, monkeypatch)
    monkeypatch.setattr(features, "_Encoder", None)  # what is there is read
    assert_equal(train(job("broken", **FROZEN, **more)), unbroken)


def test_a_failure_leaves_no_files(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    given = job(**FROZEN)
    monkeypatch.setattr(features, "_kept_parts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(given)
    assert not (given.resume / features.DIRECTORY).exists()


def test_they_go_where_the_encoder_is_trained_again(job: Jobs) -> None:
    given = job("one", **FROZEN)
    kept(given)
    assert (given.resume / features.DIRECTORY).is_dir()
    train(job("one", **FROZEN | {"frozen_views": None, "epochs": 1, "warmup_epochs": 0}))
    assert not (given.resume / features.DIRECTORY).exists()


def test_tuning_measures_on_images(job: Jobs) -> None:
    """The range test and the probe take steps of their own, on images with the encoder frozen."""
    given = on_images(job(**FROZEN))
    assert given.params.frozen_views is None
    assert given.params.freeze_encoder_epochs == given.params.epochs
    assert len(list(_losses(job(**FROZEN), [1e-3, 1e-2]))) == 2
    plain = job(**FROZEN | {"frozen_views": None})
    assert on_images(plain) is plain


def test_features_of_another_training_are_made_anew(job: Jobs) -> None:
    given = job("one", **FROZEN)
    kept(given)
    other = job("one", **FROZEN | {"frozen_views": 0})
    _, held = kept(other)
    assert held.count == 1
    assert held.views.shape[0] == held.length


def test_what_cannot_be_frozen_is_told(job: Jobs) -> None:
    with pytest.raises(SegopsError, match=r"train\.frozen_views: unet takes no features"):
        train(job(**FROZEN | {"architecture": "unet", "encoder": "resnet18", "options": {}}))


def test_a_disk_without_room_is_told_before_anything_is_written(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(**FROZEN)
    usage = features.shutil.disk_usage(".")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SegopsError, match=r"the features take .* GiB and .*free"):
        train(given)
