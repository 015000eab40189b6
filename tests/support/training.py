"""Tiny trainings for the tests of the loop and of what belongs to it."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segops.augment.policy import build_policy
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.params.hardware import HardwareParams
from segops.params.train import TrainParams
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec, build
from segops.train import checkpoint as checkpoints
from segops.train import loop
from segops.train.history import TrainingLog
from segops.train.loop import Job, TrainingResult, train
from segops.train.teacher import Teacher
from segops.voc.layout import open_layout
from tests.support.bundles import write_bundle

HARDWARE = HardwareParams(workers=0, threads=1)
BASE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 3,
    "lr": 0.01,
    "loss": "cross_entropy+dice",
    "warmup_epochs": 1,
    "selection_share": 0.1,
    "device": "cpu",
}


Jobs = Callable[..., Job]


def job_maker(voc: Path, directory: Path, unlabelled: str | None = None) -> Jobs:
    """Makes jobs on the data set `voc`; each named directory is one workspace.

    `unlabelled` is the name of a list of images without masks.
    """
    if not (directory / "packed").exists():
        layout = open_layout(voc, unlabelled=unlabelled)
        pack(layout, directory / "packed", VOC_CLASSES)
    store = PackedStore(directory / "packed")
    policy = build_policy(AugmentParams(crop=(64, 64)))

    def make(
        name: str = "run",
        architecture: str = "plain_cnn",
        encoder: str = "resnet18",
        options: dict[str, Any] | None = None,
        more: dict[str, Any] | None = None,
        **params: Any,
    ) -> Job:
        state = directory / name
        return Job(
            params=TrainParams.model_validate(BASE | params),
            hardware=HARDWARE,
            spec=ModelSpec(architecture, encoder, len(VOC_CLASSES), options or {}),
            encoder_weights=None,
            store=store,
            policy=policy,
            parts={"parameters": repr(sorted(params.items()))},
            resume=state / "resume",
            history=TrainingLog(state / "history.jsonl", name, {}),
            **(more or {}),
        )

    return make


def part_without_masks(voc: Path, count: int, name: str = "unlabelled") -> None:
    """Take the masks of the last `count` images of train; the list `name` names these images."""
    layout = open_layout(voc)
    ids = layout.ids("train")
    layout.write_list("train", ids[:-count])
    layout.write_list(name, ids[-count:])
    for image_id in ids[-count:]:
        layout.mask_path(image_id).unlink()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop catches it."""


def save_always(patch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after every step."""
    patch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    patch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    patch.setattr(loop, "STEPS_BETWEEN_LOOKS", 1)


def interrupt(job: Job, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until `steps` steps are taken, a checkpoint after every one, then die."""
    take, taken = loop._Training._take_step, 0

    def dying(self: Any, images: Tensor, masks: Tensor) -> None:
        nonlocal taken
        if taken == steps:
            raise Killed
        take(self, images, masks)
        taken += 1

    with monkeypatch.context() as patch:
        save_always(patch)
        patch.setattr(loop._Training, "_take_step", dying)
        with pytest.raises(Killed):
            train(job)
    assert (job.resume / checkpoints.NAME).is_file()


def assert_equal(resumed: TrainingResult, unbroken: TrainingResult) -> None:
    assert resumed.rows == unbroken.rows
    assert same(resumed.last, unbroken.last)
    assert same(resumed.network.state_dict(), unbroken.network.state_dict())
    assert (resumed.best_epoch, resumed.selection_miou, resumed.steps) == (
        unbroken.best_epoch,
        unbroken.selection_miou,
        unbroken.steps,
    )


def scores(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the selection split give these scores, epoch by epoch."""
    left = iter(values)
    monkeypatch.setattr(loop, "selection_miou", lambda *_: next(left))


def with_little_room(room: int, act: Callable[[], None]) -> str:
    """Have `act` run in a process whose files may not grow beyond `room` bytes.

    Returns:
        What it logged; a failure in it fails the test.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        text = io.StringIO()
        logging.getLogger("segops").addHandler(logging.StreamHandler(text))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        status = 1
        try:
            act()
            status = 0
        except BaseException:
            text.write(traceback.format_exc())
        finally:
            sender.send(text.getvalue())
            # What libraries of other tests do at the end has no room either, and would fail.
            os._exit(status)

    process = context.Process(target=child)
    process.start()
    said: str = receiver.recv()
    process.join()
    assert process.exitcode == 0, said
    return said


def teacher_of(
    spec: ModelSpec,
    directory: Path,
    network: nn.Module | None = None,
    names: Sequence[str] = VOC_CLASSES,
) -> Teacher:
    """A teacher whose bundle lies in `directory`; without a network its weights are random."""
    if network is None:
        torch.manual_seed(5)
        network = build(spec)
    write_bundle(directory, network, spec, names, {}, {})
    return Teacher.of(directory, "there", names, spec.channels)
