"""The loop on a tiny data set: reproducible, resumable, and loud when something is wrong."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segops.data.imbalance import image_counts
from segops.data.selection_split import selection_split
from segops.params.hardware import HardwareParams
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.train import checkpoint as checkpoints
from segops.train import engine, loop
from segops.train.loop import train
from segops.train.losslog import LossLog
from segops.train.selection import warn_of_absent_classes
from tests.support.training import Jobs, assert_equal, interrupt, same, scores


@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "plain_cnn"},
        {"architecture": "unet", "options": {"decoder_channels": [32, 16, 16, 8, 8]}},
        {"architecture": "deeplabv3plus", "options": {"decoder_channels": 16}},  # draws dropout
    ],
    ids=lambda model: model["architecture"],
)
def test_same_inputs_same_bits(job: Jobs, model: dict[str, Any]) -> None:
    first = train(job("first", **model))
    torch.rand(7)  # whatever happened before in this process
    second = train(job("second", **model))
    assert first.steps == second.steps == 9
    assert first.rows == second.rows
    assert same(first.last, second.last)
    assert same(first.network.state_dict(), second.network.state_dict())


def test_steps_change_the_weights_and_the_loss_falls(job: Jobs) -> None:
    outcome = train(job(epochs=12, selection_share=0, warmup_epochs=0))
    losses = [row["train_loss"] for row in outcome.rows]
    assert losses[-1] < 0.8 * losses[0]
    assert outcome.steps == outcome.rows[-1]["step"] == 48
    assert not same(outcome.last, train(job("one", epochs=1, warmup_epochs=0)).last)


def test_another_seed_gives_other_weights(job: Jobs) -> None:
    assert not same(train(job("a")).last, train(job("b", seed=1)).last)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_a_resumed_training_equals_the_unbroken_one(
    job: Jobs, steps: int, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps an epoch: killed in the middle of an epoch, and at its border."""
    model = {"architecture": "plain_cnn", "optimizer": optimizer, "schedule": "plateau"}
    model |= {"plateau_patience": 1}
    unbroken = train(job("unbroken", **model))
    interrupt(job("broken", **model), steps, monkeypatch)
    resumed = train(job("broken", **model))
    assert_equal(resumed, unbroken)
    assert torch.isfinite(torch.tensor(resumed.rows[-1]["train_loss"]))


@pytest.mark.slow
def test_dropout_goes_on_as_in_the_unbroken_training(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"architecture": "deeplabv3plus", "options": {"decoder_channels": 16}}
    unbroken = train(job("unbroken", **model))
    interrupt(job("broken", **model), 4, monkeypatch)
    assert_equal(train(job("broken", **model)), unbroken)


def test_a_training_killed_twice_equals_the_unbroken_one(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train(job("unbroken"))
    interrupt(job("broken"), 2, monkeypatch)
    interrupt(job("broken"), 4, monkeypatch)
    assert_equal(train(job("broken")), unbroken)


def test_the_best_epoch_survives_a_kill(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    scores([0.5, 0.1, 0.4], monkeypatch)
    unbroken = train(job("unbroken"))
    assert unbroken.best_epoch == 1
    scores([0.5, 0.1], monkeypatch)
    interrupt(job("broken"), 7, monkeypatch)
    scores([0.4], monkeypatch)
    assert_equal(train(job("broken")), unbroken)
    assert not same(unbroken.last, unbroken.network.state_dict())


def test_the_chosen_weights_are_those_of_the_best_epoch(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores([0.2, 0.6, 0.6], monkeypatch)
    outcome = train(job(schedule="step"))
    assert (outcome.best_epoch, outcome.selection_miou) == (2, 0.6)
    scores([0.2, 0.6], monkeypatch)
    short = train(job("short", schedule="step", epochs=2))
    assert same(outcome.network.state_dict(), short.last)


def test_without_selection_the_last_weights_are_the_model(job: Jobs) -> None:
    outcome = train(job(selection_share=0))
    assert same(outcome.last, outcome.network.state_dict())
    assert (outcome.best_epoch, outcome.selection_miou) == (3, None)
    assert [row["selection_miou"] for row in outcome.rows] == [None] * 3


def test_early_stopping(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    scores([0.1, 0.3, 0.2, 0.3, 0.9, 0.9], monkeypatch)
    outcome = train(job(epochs=6, early_stopping_patience=2))
    assert len(outcome.rows) == 4
    assert (outcome.best_epoch, outcome.steps) == (2, 12)


def test_plateau_lowers_the_rate(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    scores([0.3, 0.2, 0.2, 0.2], monkeypatch)
    outcome = train(job(epochs=4, schedule="plateau", plateau_patience=2, warmup_epochs=0))
    assert [row["lr"] for row in outcome.rows] == pytest.approx([0.01, 0.01, 0.01, 0.001])


def test_selection_images_train_nothing(job: Jobs) -> None:
    given = job(epochs=2)
    ids, selection = selection_split(given.store.ids("train"), 0.1)
    training = loop._Training(given, *fabric())
    seen = {one for e in range(2) for b in range(3) for one in training._image_ids(e, b)}
    assert selection
    assert seen <= set(ids)
    assert training.selection == selection


def fabric() -> tuple[Any, int]:
    return loop.build_fabric(TrainParams(device="cpu"))[0], 0


def test_other_parts_start_afresh(
    job: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(job("broken"), 5, monkeypatch)
    changed = replace(job("broken"), parts={"parameters": "others"})
    with caplog.at_level(logging.INFO, "segops"):
        outcome = train(changed)
    assert "another parameters; starting afresh" in caplog.text
    assert same(outcome.last, train(job("unbroken")).last)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_diverging_training_names_step_rate_and_images(job: Jobs, precision: str) -> None:
    given = job(lr=1e30, warmup_epochs=0, precision=precision, optimizer="sgd", schedule="step")
    with pytest.raises(SegopsError, match=r"diverged.*at step \d \(epoch 1\).*1e\+30") as error:
        train(given)
    named = str(error.value).split("Images of the batch: ")[1].split(".")[0].split(", ")
    assert len(named) == 3
    assert set(named) <= set(given.store.ids("train"))
    assert not (given.resume / checkpoints.NAME).exists()


@pytest.mark.parametrize("window", [1, 50])
def test_a_poisoned_step_is_found_exactly(
    job: Jobs, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when losses are looked at a window at a time, as on a GPU."""
    given = job(epochs=3)
    training = loop._Training(given, *fabric())
    training.losses = LossLog(torch.device("cpu"), window)
    whole, calls = training.engine.loss, 0

    def poisoned(logits: Tensor, masks: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return whole(logits, masks) * (float("nan") if calls == 5 else 1)

    training.engine.loss = poisoned
    expected = ", ".join(training._image_ids(1, 1))
    with pytest.raises(SegopsError, match=rf"loss is nan at step 5 \(epoch 2\).*: {expected}\."):
        training.run()


def test_weights_broken_by_the_last_step_are_no_model(job: Jobs) -> None:
    given = job(epochs=1, batch_size=9, warmup_epochs=0, lr=3e38, optimizer="sgd", precision="fp32")
    given = replace(given, params=given.params.model_copy(update={"lr": 1e39}))
    with pytest.raises(SegopsError, match="the weights are not finite at step 1"):
        train(given)


@pytest.mark.parametrize(("size", "advice"), [(3, "batch_size: 1"), (1, "smaller augment.crop")])
def test_out_of_memory_says_what_to_try(
    job: Jobs, size: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.Segmenter, "forward", full)
    monkeypatch.setattr(engine, "build_pretrained", lambda spec, _, **__: engine.Segmenter(torch.nn.Conv2d(3, 21, 1), spec.mean, spec.std, 1))  # noqa: E501  # fmt: skip
    with pytest.raises(SegopsError, match=rf"ran out of memory.*64 x 64 pixels\. Try .*{advice}"):
        train(job(batch_size=size))


def test_one_image_cannot_be_divided(job: Jobs) -> None:
    given = job()
    given.store.ids = lambda _: ("2007_000001",)  # type: ignore[method-assign]
    with pytest.raises(SegopsError, match=r"train\.selection_share: train holds 1 image"):
        train(given)


def test_the_process_is_left_as_it_was(job: Jobs) -> None:
    torch.set_num_threads(2)
    train(job(epochs=1, warmup_epochs=0))
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_workers_change_nothing(job: Jobs) -> None:
    alone = train(job("alone"))
    helped = train(replace(job("helped"), hardware=HardwareParams(workers=2, threads=1)))
    assert same(alone.last, helped.last)


def test_a_selection_split_that_lacks_most_classes_is_told(
    job: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    store = job(selection_share=0.1).store
    counts = image_counts(store, store.ids("train")) > 0
    classes = np.flatnonzero(counts.any(axis=0))
    poorest = int(counts.sum(axis=1).argmin())
    assert 2 * counts[poorest].sum() < len(classes)
    with caplog.at_level("WARNING", "segops"):
        warn_of_absent_classes(store, store.ids("train"), store.ids("train")[:-1])
        assert not caplog.records
        warn_of_absent_classes(store, store.ids("train"), [store.ids("train")[poorest]])
    (record,) = caplog.records
    absent = len(classes) - counts[poorest].sum()
    assert f"by 1 image(s), which lack {absent} of the {len(classes)} classes" in record.message
    told = record.message.partition("(s)")[2].partition("(")[2].partition(")")[0]
    missing = [store.class_names[one] for one in classes if not counts[poorest][one]]
    assert told == ", ".join(missing)
