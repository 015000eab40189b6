"""Several ranks, as processes that talk over gloo: what they share, and how they end together."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from segops.runtime.torch_predictor import TorchPredictor
from segops.train import launch, loop
from segops.train.hardware import build_fabric
from segops.train.loop import TrainingResult, train
from segops.train.selection import selection_confusion
from segops.train.start import Start
from segops.train.unlabelled import unlabelled_batches
from tests.support.bundles import write_bundle
from tests.support.ranks import TWO, on_ranks
from tests.support.training import (
    Jobs,
    job_maker,
    part_without_masks,
    save_always,
    teacher_of,
)


@pytest.fixture
def job(tiny_voc: Path, tmp_path: Path) -> Jobs:
    return job_maker(tiny_voc, tmp_path)


def plain(outcome: TrainingResult) -> dict[str, Any]:
    """An outcome in a form that goes from one process to another."""
    return {
        "rows": outcome.rows,
        "last": {name: one.numpy().copy() for name, one in outcome.last.items()},
        "steps": outcome.steps,
        "best": (outcome.best_epoch, outcome.selection_miou),
    }


def test_ranks_share_images_scores_and_weights(job: Jobs) -> None:
    """Each image once an epoch over the ranks, the scores of one process, one history."""

    def act(rank: int) -> dict[str, Any]:
        given = job("two", **TWO)
        keys: list[tuple[int, int]] = []
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        make = training.dataset.__class__.__getitem__

        def noted(dataset: Any, key: tuple[int, int]) -> Any:
            keys.append(key)
            return make(dataset, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.dataset.__class__, "__getitem__", noted)
            outcome = training.run()
        matrix = selection_confusion(
            training.predictor, given.store, training.selection, training.fabric
        )
        return {"keys": keys, "matrix": matrix, "selection": training.selection, **plain(outcome)}

    first, second = on_ranks(act)
    given = job("one", **TWO | {"devices": 1})
    whole = loop._Training(given, build_fabric(given.params)[0], 0)
    for epoch in range(3):
        order = [key for batch in whole.sampler.batches(epoch) for key in batch]
        shares = [[key for key in one["keys"] if key[0] == epoch] for one in (first, second)]
        assert sorted(shares[0] + shares[1]) == sorted(order)
        assert shares[0][:2] + shares[1][:2] == order[:4]  # the halves of the first batch
        assert len({index for _, index in order}) == len(order)
    assert len(first["selection"]) % 2 == 1  # an uneven split
    assert np.array_equal(first["matrix"], second["matrix"])
    assert first["rows"] == second["rows"]
    names = [name for name in first["last"] if "running" not in name and "num_" not in name]
    assert all(np.array_equal(first["last"][name], second["last"][name]) for name in names)
    whole.engine.network.load_state_dict(
        {name: torch.from_numpy(one) for name, one in first["last"].items()}
    )
    predictor = TorchPredictor(whole.engine.network, given.store.class_names)
    alone = selection_confusion(predictor, given.store, whole.selection, whole.fabric)
    assert np.array_equal(first["matrix"], alone)
    labelled = [given.store.mask(one) != 255 for one in whole.selection]
    assert alone.sum() == sum(one.sum() for one in labelled)
    told = job("two", **TWO).history.path.read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in told] == [None, 1, 2, 3]


@pytest.mark.slow
def test_the_queries_of_a_network_train_on_two_ranks(job: Jobs) -> None:
    """Every parameter has a gradient on both, and both have the same weights."""
    given = {**TWO, "architecture": "eomt", "encoder": "tu-test_vit", "lr": 0.001}
    given |= {"options": {"queries": 24, "blocks": 2}, "loss": "mask_classification"}
    first, second = on_ranks(lambda rank: plain(train(job("two", **given))))
    assert first["rows"] == second["rows"]
    assert first["rows"][-1]["train_loss"] < first["rows"][0]["train_loss"]
    names = first["last"].keys()
    assert all(np.array_equal(first["last"][name], second["last"][name]) for name in names)


def test_two_ranks_take_the_step_of_two_parts(job: Jobs) -> None:
    """The mean of the ranks' gradients is the mean of an accumulated step's parts."""
    given = {**TWO, "optimizer": "sgd", "epochs": 2, "lr": 0.1}
    first, _ = on_ranks(lambda rank: plain(train(job("two", **given))))
    parts = train(job("parts", **given | {"devices": 1, "accumulate": 2}))
    weights = [name for name, one in parts.last.items() if one.ndim and "running" not in name]
    for name in weights:
        np.testing.assert_allclose(first["last"][name], parts.last[name], atol=2e-4, rtol=1e-3)
    for two, one in zip(first["rows"], parts.rows, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)


def test_ranks_learn_from_the_teacher_that_the_first_rank_has(job: Jobs, tmp_path: Path) -> None:
    spec = ModelSpec("plain_cnn", "", len(VOC_CLASSES), {"width": 8})
    teacher = teacher_of(spec, tmp_path / "teacher")
    given = {**TWO, "optimizer": "sgd", "iterations": 3, "warmup_epochs": 0, "teacher": "there"}

    def act(rank: int) -> dict[str, Any]:
        own = {"teacher": teacher if rank == 0 else None}
        return plain(train(job("two", **given, more=own)))

    first, second = on_ranks(act)
    more = {"teacher": teacher}
    parts = train(job("parts", **given | {"devices": 1, "accumulate": 2}, more=more))
    for name in [name for name, one in parts.last.items() if one.ndim and "running" not in name]:
        np.testing.assert_array_equal(first["last"][name], second["last"][name])
        np.testing.assert_allclose(first["last"][name], parts.last[name], atol=2e-4, rtol=1e-3)


def test_ranks_train_the_pruned_network_of_the_first_rank(job: Jobs, tmp_path: Path) -> None:
    spec = ModelSpec("plain_cnn", "resnet18", len(VOC_CLASSES), {"width": 8})
    write_bundle(tmp_path / "whole", build(spec), spec, VOC_CLASSES, {}, {})
    start = Start.of(tmp_path / "whole", "there").pruned(spec, 0.3)
    given = {**TWO, "options": spec.options, "iterations": 3, "warmup_epochs": 0}

    def act(rank: int) -> dict[str, Any]:
        made = job("two", **given)
        if rank == 0:
            made = replace(made, start=start, spec=replace(spec, pruned_shapes=start.pruned_shapes))
        return plain(train(made))

    first, second = on_ranks(act)
    for name, one in first["last"].items():
        assert one.shape == start.weights[name].shape
        assert "running" in name or np.array_equal(one, second["last"][name])


RICH: dict[str, Any] = {
    **TWO,
    "architecture": "pspnet",
    "encoder": "mobilenet_v2",  # whose last stages pspnet leaves unused
    "accumulate": 2,
    "ema_decay": 0.5,
    "gradient_clip": 1.0,
    "freeze_encoder_epochs": 1,
    "iterations": 3,
    "more": {"auxiliary_weight": 0.4},
}


def test_ranks_go_on_where_they_were_killed_with_all_options(job: Jobs) -> None:
    """Between two steps with the encoder frozen; resumed, the ranks end as if unbroken."""

    def act(rank: int) -> dict[str, Any]:
        return plain(train(job("unbroken", **RICH)))

    def killed(rank: int) -> int:
        given = job("broken", **RICH)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        with pytest.MonkeyPatch.context() as patch:
            save_always(patch)
            batches = iter(loop.batches_of(
                given, training.fabric, training.dataset, training.sampler, 3, (0, 0), 0
            ))  # fmt: skip
            training.engine.freeze_encoder(True)
            training.engine.train_mode()
            training._take_step(*next(batches))
            training._save()
        return rank

    first, second = on_ranks(act)
    assert first["rows"] == second["rows"]
    assert on_ranks(killed) == [0, 1]
    assert (job("broken", **RICH).resume / "state.pt").is_file()
    resumed, _ = on_ranks(lambda rank: plain(train(job("broken", **RICH))))
    assert resumed["rows"] == first["rows"]
    assert resumed["best"] == first["best"]
    assert all(np.array_equal(one, first["last"][name]) for name, one in resumed["last"].items())


WITHOUT_MASKS: dict[str, Any] = {
    **TWO,
    "batch_size": 2,
    "iterations": 3,
    "warmup_epochs": 0,
    "ramp_up_epochs": 0,
    "ema_decay": 0.5,
    "mean_teacher": {"weight": 1.0, "confidence": 0.0},
    "adversarial": {"weight": 0.1, "lr": 1e-3},
}
"""Two steps an epoch, whose end makes the ranks' statistics equal."""


@pytest.fixture
def unlabelled_job(tiny_voc: Path, tmp_path: Path) -> Jobs:
    part_without_masks(tiny_voc, 5)
    return job_maker(tiny_voc, tmp_path, "unlabelled")


def test_ranks_share_images_without_masks_and_go_on_where_they_were_killed(
    unlabelled_job: Jobs,
) -> None:
    """One discriminator, one mean teacher, each rank its own part; resumed as if unbroken."""

    def act(rank: int) -> dict[str, Any]:
        given = unlabelled_job("unbroken", **WITHOUT_MASKS)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        stream = unlabelled_batches(given, training.fabric, 3, 0, 0)
        own = [one[0].numpy().copy() for one in stream if one is not None]
        outcome = plain(training.run())
        adversary, teacher = training.engine.adversary, training.engine.mean_teacher
        assert adversary is not None
        assert teacher is not None
        return outcome | {
            "own": own,
            "adversary": [one.detach().numpy().copy() for one in adversary.network.parameters()],
        }

    def killed(rank: int) -> int:
        """Within an epoch."""
        given = unlabelled_job("broken", **WITHOUT_MASKS)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        training.unlabelled = unlabelled_batches(given, training.fabric, 3, 0, 0)
        batches = iter(loop.batches_of(
            given, training.fabric, training.dataset, training.sampler, 3, (0, 0), 0
        ))  # fmt: skip
        training.engine.train_mode()
        training._take_step(*next(batches))
        training._save()
        return rank

    first, second = on_ranks(act)
    assert first["rows"] == second["rows"]
    alone = unlabelled_job("alone", **WITHOUT_MASKS | {"devices": 1})
    whole = unlabelled_batches(alone, build_fabric(alone.params)[0], 3, 0, 0)
    assert [len(one["own"]) for one in (first, second)] == [3, 3]
    for step, batch in enumerate(whole):
        assert batch is not None
        shares = np.concatenate([one["own"][step] for one in (first, second)])
        assert np.array_equal(shares, batch[0].numpy())
    for one, other in zip(first["adversary"], second["adversary"], strict=True):
        assert np.array_equal(one, other)
    on_ranks(killed)
    resumed, _ = on_ranks(lambda rank: plain(train(unlabelled_job("broken", **WITHOUT_MASKS))))
    assert resumed["rows"] == first["rows"]
    assert all(np.array_equal(one, first["last"][name]) for name, one in resumed["last"].items())


def test_ranks_with_other_data_or_parameters_are_told(job: Jobs) -> None:
    def act(rank: int) -> str:
        given = job("differing", **TWO)
        given.parts["data"] = f"hash {rank}"
        with pytest.raises(SegopsError) as error:
            train(given)
        return str(error.value)

    assert all("Rank 1 would train with another data" in one for one in on_ranks(act))


def test_a_number_of_processes_that_does_not_fit_is_told(job: Jobs) -> None:
    with pytest.raises(SegopsError, match=r"make 2 processes, but 1 run.*`segops stage train`"):
        train(job(**TWO))
    with pytest.raises(SegopsError, match=r"train\.nodes: 2.*SEGOPS_MAIN="):
        train(job(**TWO, nodes=2))


def test_a_bad_loss_on_one_rank_ends_both_with_its_message(job: Jobs, tmp_path: Path) -> None:
    def act(rank: int) -> list[str]:
        os.environ[launch.RUN_ID] = f"{launch.OURS}-1"
        os.environ["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / f"error{rank}.json")
        given = job("poisoned", **TWO)
        training = loop._Training(given, build_fabric(given.params)[0], 0)
        whole, calls = training.engine.loss, 0

        def poisoned(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return whole(logits, masks) * (float("nan") if (rank, calls) == (1, 3) else 1)

        training.engine.loss = poisoned
        with pytest.raises(SystemExit), launch.as_rank():
            training.run()
        return training._image_ids(1, 0)

    _, ids = on_ranks(act)
    told = [json.loads((tmp_path / f"error{rank}.json").read_text()) for rank in (0, 1)]
    message = str(launch._first_failure({k: failure(1, **one) for k, one in enumerate(told)}))
    assert "the loss is nan at step 3 (epoch 2)" in message
    assert f"Images of the batch: {', '.join(ids)}. " in message
    assert len(ids) == 2
    assert told[0]["lost"]


def failure(code: int, **data: Any) -> SimpleNamespace:
    name = signal.Signals(-code).name if code < 0 else ""
    return SimpleNamespace(
        exitcode=code, error_file_data=data, timestamp=7, pid=4, signal_name=lambda: name
    )


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({0: failure(1, message="x", lost=True), 1: failure(-9)}, r"Rank 1 .* by SIGKILL.*memory"),
        ({0: failure(-15), 1: failure(1, message="the loss is nan")}, "^the loss is nan$"),
        ({0: failure(-6), 1: failure(2), 2: failure(-15)}, "Rank 1 .* exit status 2"),
        ({0: failure(-15)}, "Rank 0 .* by SIGTERM"),
    ],
)
def test_of_several_failures_the_cause_is_told(failures: dict[int, Any], message: str) -> None:
    with pytest.raises(SegopsError, match=message):
        raise launch._first_failure(failures)
