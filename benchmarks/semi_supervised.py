"""Training on a tenth of the sample's masks, alone and with two methods for the other images.

The data are the shipped sample, generated anew. The first tenth of train keeps its masks; the rest
of train are the images without masks. Every training has the network of the repository's
``params.yaml``, half of its optimiser steps and the moving average of the weights; the trainings of
a seed begin with the same weights and see the same images with masks in the same order. The last
weights are scored. Settings are tried on newly generated images (``--split new``), never on val.
Printed are the mIoU of each seed in points, the mean, and the mean gain over the first method.
Run: ``python -m benchmarks.semi_supervised [--steps 270] [--seeds 3] [--split val] ...``; ``--keep
DIRECTORY`` keeps the data for the next run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import job_of, settings_of
from benchmarks.distillation import score
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.runtime.classes import VOC_CLASSES
from segops.train.loop import train
from segops.voc.layout import UNLABELLED, open_layout
from tools.sample import SHIPPED, generate

SHARE = 0.1
"""Share of train that keeps its masks: the first images, which hold all classes equally often."""

STEPS = 270
"""Half of those of ``params.yaml`` on the shipped sample: 20 epochs of 27 steps."""

WARM_UP, RAMP_UP = 0.1, 0.4
"""Shares of the steps over which the learning rate, and the losses without masks, rise."""

METHODS = ("masks alone", "mean teacher", "adversarial", "both")


def store_of(directory: Path, split: str) -> PackedStore:
    """The sample with a tenth of its masks in `directory`; with other images to score for `new`."""
    home = directory / split
    if not (home / "packed").is_dir():
        generate(home / "voc", **SHIPPED)
        layout = open_layout(home / "voc")
        ids = layout.ids("train")
        count = round(SHARE * len(ids))
        layout.write_list("train", ids[:count])
        layout.write_list(UNLABELLED, ids[count:])
        for image_id in ids[count:]:
            layout.mask_path(image_id).unlink()
        if split == "new":
            generate(home / "new", **SHIPPED | {"train": len(ids), "seed": SHIPPED["seed"] + 1})
            new = open_layout(home / "new")
            for image_id in layout.ids("val"):
                for path in (layout.image_path, layout.mask_path):
                    at = path(image_id)
                    at.write_bytes((new.root / at.relative_to(layout.root)).read_bytes())
        layout = open_layout(home / "voc", unlabelled=UNLABELLED)
        pack(layout, home / "packed", VOC_CLASSES, workers=2)
    return PackedStore(home / "packed")


def changes_of(method: str, seed: int, given: argparse.Namespace, batches: int) -> dict[str, Any]:
    """The changes of section `train` for a method; `batches` are those of a pass over the masks."""
    changes: dict[str, Any] = {
        "seed": seed,
        "iterations": given.steps,
        "warmup_epochs": WARM_UP * given.steps / batches,
        "ramp_up_epochs": RAMP_UP * given.steps / batches,
        "selection_share": 0,
        "ema_decay": given.ema_decay,
    }
    if method in ("mean teacher", "both"):
        weight, confidence = given.teacher_weight, given.teacher_confidence
        changes["mean_teacher"] = {"weight": weight, "confidence": confidence}
    if method in ("adversarial", "both"):
        changes["adversarial"] = {
            "weight": given.adversarial_weight,
            "lr": given.adversarial_lr,
            "unlabelled_weight": given.unlabelled_weight,
            "self_taught_weight": given.self_taught_weight,
            "confidence": given.adversarial_confidence,
        }
    return changes


def trained(method: str, seed: int, store: PackedStore, given: argparse.Namespace) -> float:
    """Train with a method; the mIoU on the scored images, in points."""
    batches = max(1, len(store.ids("train")) // settings_of().train.batch_size)
    settings = settings_of(**changes_of(method, seed, given, batches))
    with tempfile.TemporaryDirectory() as directory:
        job = job_of(settings, store, Path(directory))
        started = time.perf_counter()
        outcome = train(job)
        taken = time.perf_counter() - started
        points = score(outcome.network, job, "val")
    last = {name: value for name, value in outcome.rows[-1].items() if "_" in name}
    curves = ", ".join(f"{name} {value:.3f}" for name, value in last.items() if value is not None)
    print(f"seed {seed}, {method}: {points:.2f} ({taken:.0f} s; at the end {curves})", flush=True)
    return points


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--split", choices=("val", "new"), default="val")
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--teacher-weight", type=float, default=1.0)
    parser.add_argument("--teacher-confidence", type=float, default=0.95)
    parser.add_argument("--adversarial-weight", type=float, default=0.01)
    parser.add_argument("--adversarial-lr", type=float, default=1e-4)
    parser.add_argument("--unlabelled-weight", type=float, default=0.001)
    parser.add_argument("--self-taught-weight", type=float, default=0.1)
    parser.add_argument("--adversarial-confidence", type=float, default=0.2)
    parser.add_argument("--keep", type=Path)
    return parser.parse_args(given)


def compare(given: argparse.Namespace, home: Path) -> dict[str, list[float]]:
    """Train each method with each seed, print a table, and return the mIoU of each, in points."""
    store = store_of(home, given.split)
    print(
        f"{len(store.ids('train'))} images with masks, {len(store.ids(UNLABELLED))} without; "
        f"{given.steps} steps; scored on {len(store.ids('val'))} images ({given.split})",
        flush=True,
    )
    found: dict[str, list[float]] = {method: [] for method in given.methods}
    for seed in range(given.seeds):
        for method, points in found.items():
            points.append(trained(method, seed, store, given))
    seeds = "".join(f" {f'seed {seed}':>8}" for seed in range(given.seeds))
    print(f"{'mIoU, points':14}{seeds} {'mean':>8} {'gain':>8}")
    first = next(iter(found.values()))
    for method, points in found.items():
        gains = [one - other for one, other in zip(points, first, strict=True)]
        columns = [*points, statistics.mean(points)]
        row = "".join(f" {value:8.2f}" for value in columns)
        print(f"{method:14}{row} {statistics.mean(gains):+8.2f}")
    return found


def main() -> None:
    """Print the comparison."""
    given = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, given.keep or Path(scratch))


if __name__ == "__main__":
    main()
