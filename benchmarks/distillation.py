"""A student with its teacher against the same student without it, at equal steps.

The teacher is the network of the repository's ``params.yaml``, trained as they say; the student is
the plain CNN at half of its width. Both students of a seed start from the same weights and see the
same batches: they differ in `train.teacher` alone. The data are the shipped sample, generated anew.
Settings are tried on the selection split (``--split selection``), never on val. Printed are the
mIoU of each seed's students in points, and the mean of the differences.
Run: ``python -m benchmarks.distillation [--epochs 20] [--seeds 3] [--split val] ...``; ``--keep
DIRECTORY`` keeps the data and the teacher for the next run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.common import job_of, settings_of
from segops.data.packing import pack
from segops.data.selection_split import selection_split
from segops.data.store import PackedStore
from segops.params.file import Params
from segops.params.model import ModelParams
from segops.predict.bundle import load_bundle
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.hardware import build_fabric
from segops.train.job import Job
from segops.train.loop import train
from segops.train.selection import selection_miou
from segops.train.teacher import Teacher
from segops.voc.layout import open_layout
from tools.sample import SHIPPED, generate


def store_of(directory: Path, train_images: int) -> PackedStore:
    """The shipped sample with the first `train_images` of train, packed in `directory`."""
    if not (directory / "packed").is_dir():
        generate(directory / "voc", **SHIPPED | {"train": train_images})
        pack(open_layout(directory / "voc"), directory / "packed", VOC_CLASSES, workers=2)
    return PackedStore(directory / "packed")


def teacher_of(settings: Params, store: PackedStore, directory: Path) -> Teacher:
    """The teacher that lies in `directory`, or a new one that is put there."""
    if not directory.is_dir():
        job = job_of(settings, store, directory.parent / "teacher-state")
        network = train(job).network
        images = {one: store.image_sha256(one) for one in store.ids("train")}
        write_trained(directory, network, job.spec, VOC_CLASSES, images, {})
        package(directory, directory)
    return Teacher.of(directory, str(directory), VOC_CLASSES, store.channels)


def score(network: nn.Module, job: Job, split: str) -> float:
    """MIoU of a network on val or on the selection split, in points."""
    share = job.params.selection_share
    ids: Sequence[str] = job.store.ids("val")
    if split == "selection":
        ids = selection_split(job.store.ids("train"), share)[1]
    fabric = build_fabric(job.params)[0]
    predictor = TorchPredictor(network.eval(), job.store.class_names, fabric.device)
    return 100 * selection_miou(predictor, job.store, ids, fabric)


def student(
    settings: Params, store: PackedStore, teacher: Teacher | None, given: argparse.Namespace
) -> tuple[float, int, float]:
    """Train a student; its mIoU in points, its steps, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as directory:
        job = replace(job_of(settings, store, Path(directory)), teacher=teacher)
        started = time.perf_counter()
        outcome = train(job)
        taken = time.perf_counter() - started
        return score(outcome.network, job, given.split), outcome.steps, taken


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=SHIPPED["train"])
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--split", choices=("val", "selection"), default="val")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args(given)


def main() -> None:
    """Train the pairs and print every seed and the mean."""
    given = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, given.keep or Path(scratch))


def compare(given: argparse.Namespace, home: Path) -> list[float]:
    """Train teacher and students in `home`, print what came of it, and return each seed's gain."""
    store = store_of(home, given.images)
    teacher = teacher_of(settings_of(epochs=given.teacher_epochs), store, home / "teacher")
    some = job_of(settings_of(), store, home)
    network = load_bundle(home / "teacher").network
    print(
        f"{len(store.ids('train'))} train images; teacher: {parameters(network):,} parameters, "
        f"mIoU on {given.split} {score(network, some, given.split):.2f}; weight {given.weight:g}, "
        f"temperature {given.temperature:g}"
    )
    network_of_student = ModelParams(architecture="plain_cnn", options={"width": given.width})
    gains = []
    for seed in range(given.seeds):
        changes: dict[str, Any] = {"epochs": given.epochs, "seed": seed}
        how = {"weight": given.weight, "temperature": given.temperature}
        taught_changes = {**changes, "teacher": str(home / "teacher"), "distillation": how}
        alone, taught = (
            settings_of(**one).model_copy(update={"model": network_of_student})
            for one in (changes, taught_changes)
        )
        without, steps, seconds = student(alone, store, None, given)
        with_teacher, same_steps, longer = student(taught, store, teacher, given)
        assert steps == same_steps
        gains.append(with_teacher - without)
        print(
            f"seed {seed}, {steps} steps: {without:.2f} alone ({seconds:.0f} s), "
            f"{with_teacher:.2f} with the teacher ({longer:.0f} s), {gains[-1]:+.2f}",
            flush=True,
        )
    spread = f", standard deviation {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
    won = sum(gain > 0 for gain in gains)
    print(
        f"mean gain {statistics.mean(gains):+.2f} points of mIoU{spread}; "
        f"the student with its teacher wins {won} of {len(gains)}"
    )
    return gains


def parameters(network: nn.Module) -> int:
    """Number of a network's parameters."""
    return sum(one.numel() for one in network.parameters())


if __name__ == "__main__":
    main()
