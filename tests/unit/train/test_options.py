"""The loop with its options: length, order, resume with all of them, a full disk, what is told."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from segops.data.selection_split import selection_split
from segops.params.hardware import HardwareParams
from segops.params.samples import CopyPasteParams
from segops.runtime.errors import SegopsError
from segops.train import checkpoint as checkpoints
from segops.train import loop
from segops.train.hardware import build_fabric, reproducible
from segops.train.loop import train
from segops.train.schedules import Schedule
from tests.support.training import (
    Jobs,
    assert_equal,
    interrupt,
    same,
    save_always,
    scores,
    with_little_room,
)

EVERYTHING: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": "mobilenet_v2",
    "batch_size": 4,
    "accumulate": 2,
    "iterations": 5,
    "ema_decay": 0.9,
    "gradient_clip": 1.0,
    "l1": 1e-4,
    "encoder_lr_factor": 0.1,
    "freeze_encoder_epochs": 1,
    "freeze_batch_norm": True,
    "sampling": "rare_first",
    "precision": "fp32",
    "schedule": "plateau",
    "plateau_patience": 1,
    "warmup_epochs": 0.5,
    "more": {
        "auxiliary_weight": 0.4,
        "copy_paste": CopyPasteParams(p=0.5),
        "augment_device": "gpu",
    },
}
"""Two steps an epoch, so that the third epoch is a half."""


@pytest.mark.parametrize("steps", [1, 3])
def test_with_all_options_a_resumed_training_equals_the_unbroken_one(
    steps: int, job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with the encoder frozen, and with all of the network in training."""
    unbroken = train(job("unbroken", **EVERYTHING))
    interrupt(job("broken", **EVERYTHING), steps, monkeypatch)
    assert_equal(train(job("broken", **EVERYTHING)), unbroken)


def test_in_fp16_the_scale_goes_on_too(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss this large overflows under the first scale of 65,536: steps are skipped."""
    loss = [{"name": "cross_entropy", "weight": 1e6}]
    # Half precision is slow on a CPU: a narrow network.
    given = {"precision": "fp16", "loss": loss, "iterations": 4, "options": {"width": 4}}
    unbroken = train(job("unbroken", **given))
    interrupt(job("broken", **given), 2, monkeypatch)
    found = checkpoints.load(job("broken", **given).resume, job("broken", **given).parts)
    assert found is not None
    assert found[0].engine["scaler"]["scale"] < 2.0**16
    assert_equal(train(job("broken", **given)), unbroken)


def test_with_all_options_on_workers_change_nothing(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they change a resume in the middle of an epoch, with another number of them."""
    given = EVERYTHING | {"iterations": 3}
    alone = train(job("alone", **given))
    helped = {
        workers: replace(
            job("helped", **given), hardware=HardwareParams(workers=workers, threads=1)
        )
        for workers in (1, 2)
    }
    interrupt(helped[2], 1, monkeypatch)
    assert_equal(train(helped[1]), alone)
    assert_equal(train(replace(helped[2], resume=helped[2].resume / "afresh")), alone)


def test_iterations_in_place_of_epochs(job: Jobs) -> None:
    """Nine images in batches of three: seven steps are two epochs and a third of one."""
    given = job(iterations=7, epochs=50, schedule="poly", warmup_epochs=1)
    outcome = train(given)
    assert outcome.steps == 7
    assert [row["step"] for row in outcome.rows] == [3, 6, 7]
    assert all(row["selection_miou"] is not None for row in outcome.rows)
    schedule = Schedule.of(given.params, 3)
    assert schedule.total_steps == 7
    assert outcome.rows[-1]["lr"] == schedule.learning_rate(6) > 0
    assert schedule.learning_rate(7) == 0
    whole = train(job("whole", iterations=6, warmup_epochs=1))
    assert_equal(whole, train(job("epochs", epochs=2)))


def test_iterations_may_end_in_the_first_epoch(job: Jobs) -> None:
    outcome = train(job(iterations=1, warmup_epochs=0))
    assert (outcome.steps, len(outcome.rows), outcome.best_epoch) == (1, 1, 1)


def test_a_warm_up_longer_than_the_iterations_is_refused(job: Jobs) -> None:
    with pytest.raises(SegopsError, match=r"warmup_epochs: 2 makes 6 steps.*iterations: 5"):
        train(job(iterations=5, warmup_epochs=2))


def test_the_best_checkpoint_alone_is_enough_to_go_on(
    job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one is damaged: the training goes back to the best epoch and ends the same."""
    given = {"ema_decay": 0.9, "optimizer": "adamw", "epochs": 4}
    scores([0.1, 0.5, 0.3, 0.4], monkeypatch)
    unbroken = train(job("unbroken", **given))
    scores([0.1, 0.5, 0.3, 0.4], monkeypatch)
    broken = job("broken", **given)
    interrupt(broken, 10, monkeypatch)
    (broken.resume / checkpoints.NAME).write_bytes(b"")
    scores([0.3, 0.4], monkeypatch)
    resumed = train(broken)
    assert_equal(resumed, unbroken)
    assert resumed.best_epoch == 2
    rows = broken.history.path.read_text().splitlines()
    assert [json.loads(row).get("epoch") for row in rows] == [None, 1, 2, 3, 4]


def test_a_full_disk_stops_no_training(job: Jobs) -> None:
    """No checkpoint has room, then not even the history."""
    unbroken = train(job("unbroken"))
    given = job("full")

    def act() -> None:
        with pytest.MonkeyPatch.context() as patch:
            save_always(patch)
            assert_equal(train(given), unbroken)

    said = with_little_room(20_000, act)
    assert said.count("no checkpoint could be written: File too large. There is none yet") > 5
    assert "Continuing" not in said
    rows = given.history.path.read_text().splitlines()
    assert len(rows) == 4
    assert "history.jsonl: could not be written" not in said


def test_every_row_is_handed_on_and_an_objection_ends_the_training(job: Jobs) -> None:
    seen: list[Mapping[str, Any]] = []

    def look(row: Mapping[str, Any]) -> None:
        seen.append(row)
        if row["epoch"] == 2:
            raise KeyError("pruned")

    with pytest.raises(KeyError, match="pruned"):
        train(job(more={"on_epoch": look}))
    assert [row["epoch"] for row in seen] == [1, 2]
    assert {"step", "lr", "train_loss", "selection_miou"} <= seen[0].keys()


def test_rare_classes_first_and_pasted_objects_reach_the_training(job: Jobs) -> None:
    plain = train(job("plain", epochs=1, warmup_epochs=0))
    rare = train(job("rare", epochs=1, warmup_epochs=0, sampling="rare_first"))
    pasted = {"copy_paste": CopyPasteParams(p=1.0)}
    busy = train(job("busy", epochs=1, warmup_epochs=0, more=pasted))
    assert not same(plain.last, rare.last)
    assert not same(plain.last, busy.last)


def test_objects_come_from_training_images_alone(job: Jobs) -> None:
    given = job(more={"copy_paste": CopyPasteParams(p=1.0)})
    training = loop._Training(given, build_fabric(given.params)[0], 0)
    assert training.dataset.copy_paste is not None
    found = training.dataset.copy_paste.sources
    sources = {one.image_id for _, of_class in found for one in of_class}
    ids, selection = selection_split(given.store.ids("train"), given.params.selection_share)
    assert sources <= set(ids)
    assert not sources & set(selection)


def test_an_operation_without_a_deterministic_kernel_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On CUDA torch warns, in these words; the training goes on. Other warnings pass through."""
    text = (
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you "
        "set 'torch.use_deterministic_algorithms(True, warn_only=True)'."
    )

    def train_there() -> set[str]:
        with reproducible("cpu", threads=1) as names:
            for _ in range(3):
                warnings.warn(text, stacklevel=1)
            warnings.warn("another", stacklevel=1)
        return names

    with pytest.warns(UserWarning, match="another"):
        assert train_there() == {"adaptive_avg_pool2d_backward_cuda"}
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 1
    assert "no deterministic cuda kernel for adaptive_avg_pool2d_backward_cuda" in told[0]


def test_on_the_cpu_such_an_operation_ends_the_training_by_name() -> None:
    def put() -> None:
        with reproducible("cpu", threads=1):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    with pytest.raises(SegopsError, match=r"train\.deterministic: true.*cpu kernel for put_"):
        put()


def test_without_determinism_the_quickest_kernels_are_taken() -> None:
    with reproducible("cpu", threads=1, deterministic=False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
