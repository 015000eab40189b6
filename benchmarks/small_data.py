"""A few hundred photographs, ten minutes of one core: recipe `small-data` against a plain loop.

Both sides start from the same encoder weights, see the same crops' size and have the same budget,
and run beside one another on a core each. The plain side is the loop that one writes with
segmentation-models-pytorch and torch: it decodes JPEG files as it goes, scales, crops and flips at
random, and takes Adam through DeepLabV3+; its learning rate was chosen as the recipe was, on
images held out from train (``--explore``), never on val. The budget is processor time of a process
with one thread, which on a core of its own is time on the clock. All counts that a user waits for:
packing, building the network, trial steps, training; scoring does not. The recipe has a number of
steps, so its speed is measured over a few steps first. The networks of both sides are scored twice:
with each image of val whole at its own size, and as the recipe predicts. The score is the mean IoU
over the classes that enough images of val hold.
Run: ``python -m benchmarks.small_data DATA --weights FILE [--minutes 10] [--seeds 3] ...``, with
DATA in VOC layout and FILE the weights of an encoder MobileNetV2; ``--set KEY=VALUE`` tries another
value of a parameter in place of the recipe's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import REPOSITORY, job_of
from segops import recipes
from segops.data.packing import pack
from segops.data.selection_split import selection_split
from segops.data.store import PackedStore
from segops.edit import put
from segops.metrics.iou import class_pixels, iou
from segops.models.pretrained import load_encoder_weights
from segops.params.file import Params
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.inference import Inference
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import IMAGENET_MEAN, IMAGENET_STD
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.hardware import build_fabric
from segops.train.job import Job
from segops.train.loop import train
from segops.train.selection import selection_confusion
from segops.voc.layout import IMAGES, MASKS, Layout, open_layout

RECIPE, ENCODER = "small-data", "mobilenet_v2"
SIDES = ("segops", "plain")
WAYS = ("at its size", "as the recipe predicts")
"""How the images of val are predicted: whole at their own size, or by the recipe's `predict`."""

TRIALS = (1, 1, 12)
"""Steps of short trainings: one to warm up, and two whose difference is the time of a step."""

WARM_UP = 0.1
"""Largest share of the steps that warm the learning rate up, where the budget is short."""

MARGIN = 0.97
"""Share of the budget that the plain loop fills."""

PLANNED = 0.8
"""Share of the rest of the budget that the recipe's steps fill: they take up to a quarter longer
than the trials say, and must not take more than the plain loop has."""


@dataclass(frozen=True)
class Task:
    """A training of one side.

    Attributes:
        data: Data set in VOC layout.
        packed: The same, packed, for scoring.
        weights: File of the encoder's weights.
        seconds: Budget, of processor time.
        seed: Of all that is random.
        plain_lr: Learning rate of the plain loop.
        plain_batch: Images in its batch.
        plain_scale: Range of its random scale.
        crop: Side of its crops, in pixels.
        changes: Parameters in place of the recipe's, by dotted key.
    """

    data: Path
    packed: Path
    weights: Path
    seconds: float
    seed: int
    plain_lr: float
    plain_batch: int
    plain_scale: tuple[float, float]
    crop: int
    changes: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        counts: Confusion matrices of val, (classes, classes), rows are truth, by :data:`WAYS`.
        steps: Steps of the optimiser.
        images: Images seen, each as often as it was.
        processor: Seconds of processor time, scoring left out.
        clock: Seconds on the clock, likewise.
    """

    counts: dict[str, NDArray[np.int64]]
    steps: int
    images: int
    processor: float
    clock: float


def settings_of_recipe(task: Task) -> Params:
    """The repository's ``params.yaml`` with the recipe's values and the task's."""
    settings = recipes.put_over(REPOSITORY, recipes.find(REPOSITORY, RECIPE)).settings
    values = {
        "train.seed": task.seed,
        "model.encoder": ENCODER,
        "model.encoder_weights": str(task.weights),
        "hardware.threads": 1,
        "hardware.workers": 0,
        "augment.crop": [task.crop, task.crop],
    }
    return put(settings, values | task.changes, "the benchmark's parameters")


def by_recipe(task: Task) -> Outcome:
    """Train with segops as the recipe says, for as many steps as the budget allows."""
    clock, started = time.perf_counter(), time.process_time()
    settings = settings_of_recipe(task)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        pack(open_layout(task.data), home / "packed", VOC_CLASSES)
        store = PackedStore(home / "packed")
        job = job_of(settings, store, home)
        _, first, second = (_trial(job, steps) for steps in TRIALS)
        step = (second - first) / (TRIALS[2] - TRIALS[1])
        spent = time.process_time() - started + first
        left = MARGIN * task.seconds - spent
        steps = max(2, int(PLANNED * left / step))
        batches = len(store.ids("train")) / job.params.batch_size
        warmup = min(job.params.warmup_epochs, WARM_UP * steps / batches)
        params = job.params.model_copy(update={"iterations": steps, "warmup_epochs": warmup})
        outcome = train(replace(job, params=params))
        taken = time.process_time() - started
        clock = time.perf_counter() - clock
    images = outcome.steps * settings.train.batch_size
    return Outcome(score(outcome.network, task), outcome.steps, images, taken, clock)


def _trial(job: Job, steps: int) -> float:
    """Processor seconds of a training of a few steps."""
    params = job.params.model_copy(update={"warmup_epochs": 0.0, "iterations": steps})
    started = time.process_time()
    train(replace(job, params=params, resume=job.resume.with_name(f"trial-{steps}")))
    return time.process_time() - started


def by_plain_loop(task: Task) -> Outcome:
    """Train DeepLabV3+ as one does without segops, until the budget is spent."""
    clock, started = time.perf_counter(), time.process_time()
    torch.manual_seed(task.seed)
    draw = random.Random(task.seed)
    network = smp.DeepLabV3Plus(ENCODER, encoder_weights=None, classes=len(VOC_CLASSES))
    load_encoder_weights(network.encoder, task.weights)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), task.plain_lr)
    files, steps, spent = crops(task, draw), 0, 0.0
    while spent < MARGIN:
        for group in optimizer.param_groups:
            group["lr"] = task.plain_lr * (1 - spent) ** 0.9
        pairs = [next(files) for _ in range(task.plain_batch)]
        images, masks = (torch.stack(part) for part in zip(*pairs, strict=True))
        loss = functional.cross_entropy(network(images), masks, ignore_index=VOID)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
        spent = (time.process_time() - started) / task.seconds
    taken, clock = time.process_time() - started, time.perf_counter() - clock
    # Takes images as they are, as networks of segops do, to be scored as they are.
    whole = Segmenter(network, IMAGENET_MEAN, IMAGENET_STD, stride=32)
    return Outcome(score(whole, task), steps, steps * task.plain_batch, taken, clock)


def crops(task: Task, draw: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless crops of train: float32 (3, h, w), normalised, and int64 (h, w), 255 for void."""
    layout = open_layout(task.data)
    ids, side = list(layout.ids("train")), task.crop
    mean, std = (np.array(one, np.float32) for one in (IMAGENET_MEAN, IMAGENET_STD))
    while True:
        draw.shuffle(ids)
        for image_id in ids:
            image: Any = cv2.imread(str(layout.image_path(image_id)), cv2.IMREAD_COLOR_RGB)
            mask: Any = np.array(Image.open(layout.mask_path(image_id)))
            factor = draw.uniform(*task.plain_scale)
            size = round(image.shape[1] * factor), round(image.shape[0] * factor)
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
            below, right = max(side - size[1], 0), max(side - size[0], 0)
            values = (image / np.float32(255) - mean) / std
            values = np.pad(values, ((0, below), (0, right), (0, 0)))
            mask = np.pad(mask, ((0, below), (0, right)), constant_values=VOID)
            top, left = (draw.randint(0, have - side) for have in mask.shape)
            turn = draw.choice((1, -1))
            values = values[top : top + side, left : left + side][:, ::turn]
            mask = mask[top : top + side, left : left + side][:, ::turn]
            yield (
                torch.from_numpy(values.transpose(2, 0, 1).copy()),
                torch.from_numpy(mask.astype(np.int64)),
            )


def score(network: nn.Module, task: Task) -> dict[str, NDArray[np.int64]]:
    """Confusion matrix of val, (classes, classes), rows are truth, for each of :data:`WAYS`."""
    store, settings = PackedStore(task.packed), settings_of_recipe(task)
    fabric = build_fabric(settings.train)[0]
    counts = {}
    for way, how in zip(WAYS, (PredictSettings(mode="whole"), settings.predict), strict=True):
        predictor = TorchPredictor(
            network.eval(), store.class_names, fabric.device, inference=Inference(how)
        )
        counts[way] = selection_confusion(predictor, store, store.ids("val"), fabric)
    return counts


def common_classes(store: PackedStore, least: int) -> list[int]:
    """Ids of the classes that `least` or more images of val hold."""
    held: Any = sum(
        np.bincount(np.unique(store.mask(one)), minlength=256) for one in store.ids("val")
    )
    return [number for number in range(len(VOC_CLASSES)) if held[number] >= least]


def points_of(counts: NDArray[np.int64], classes: Sequence[int]) -> float:
    """Mean IoU over some classes, in points."""
    return 100 * float(iou(*class_pixels(counts))[list(classes)].mean())


def held_out(data: Path, share: float, directory: Path) -> Path:
    """A data set of train alone: val is a share of it, by a stable hash."""
    layout = open_layout(data)
    other = Layout(directory, layout.reading, None)
    other.list_path("val").parent.mkdir(parents=True)
    for name in (IMAGES, MASKS):
        (directory / name).symlink_to((data / name).resolve())
    for split, ids in zip(
        ("train", "val"), selection_split(layout.ids("train"), share), strict=True
    ):
        other.write_list(split, ids)
    return directory


def beside(task: Task, sides: Sequence[str]) -> dict[str, Outcome]:
    """Both sides at once, each in a process of its own on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(sides), context) as pool:
        running = {
            side: pool.submit(_on_core, side, task, cores[place % len(cores)])
            for place, side in enumerate(sides)
        }
        return {side: future.result() for side, future in running.items()}


def _on_core(side: str, task: Task, core: int) -> Outcome:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return by_recipe(task) if side == "segops" else by_plain_loop(task)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says, or `given` in its place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--crop", type=int, default=256, help="of both sides, in pixels")
    parser.add_argument("--explore", type=float, help="share of train to hold out and to score")
    parser.add_argument("--least-images", type=int, default=10, help="of a class that counts")
    parser.add_argument("--plain-lr", type=float, default=3e-4)
    parser.add_argument("--plain-batch", type=int, default=8)
    parser.add_argument("--plain-scale", type=float, nargs=2, default=(0.5, 2.0))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="changes")
    return parser.parse_args(given)


def compare(given: argparse.Namespace, home: Path) -> dict[str, list[dict[str, float]]]:
    """Train both sides with each seed, print, and return the mean IoU of each, in points."""
    data = (
        given.data if given.explore is None else held_out(given.data, given.explore, home / "voc")
    )
    pack(open_layout(data), home / "packed", VOC_CLASSES)
    store = PackedStore(home / "packed")
    classes = common_classes(store, given.least_images)
    print(
        f"{len(store.ids('train'))} train images, {len(store.ids('val'))} scored; "
        f"{given.minutes:g} minutes of a core, crops of {given.crop}; mean over "
        f"{', '.join(VOC_CLASSES[number] for number in classes)}",
        flush=True,
    )
    changes = dict(one.split("=", 1) for one in given.changes)
    task = Task(
        data, home / "packed", given.weights.resolve(), 60 * given.minutes, 0,
        given.plain_lr, given.plain_batch, tuple(given.plain_scale), given.crop,
        {key: yaml.safe_load(value) for key, value in changes.items()},
    )  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {side: [] for side in given.sides}
    for seed in range(given.seeds):
        for side, outcome in beside(replace(task, seed=seed), given.sides).items():
            points = {way: points_of(one, classes) for way, one in outcome.counts.items()}
            found[side].append(points)
            print(
                f"seed {seed}, {side}: {outcome.steps} steps, {outcome.images} images, "
                f"{outcome.processor:.0f} s of processor time, {outcome.clock:.0f} s on the clock"
            )
            for way, counts in outcome.counts.items():
                each = iou(*class_pixels(counts))
                every = ", ".join(f"{VOC_CLASSES[one]} {100 * each[one]:.1f}" for one in classes)
                print(f"  {way}: {points[way]:.2f} points ({every})", flush=True)
    for way in WAYS:
        for side, seeds in found.items():
            print(f"{side}, {way}: {_with_mean([points[way] for points in seeds])}")
        if len(found) == len(SIDES):
            ours, theirs = (found[side] for side in SIDES)
            gains = [one[way] - other[way] for one, other in zip(ours, theirs, strict=True)]
            print(f"segops above the plain loop, {way}: {_with_mean(gains, '+')}")
    return found


def _with_mean(values: Sequence[float], sign: str = "") -> str:
    each = " ".join(f"{one:{sign}.2f}" for one in values)
    return f"{each}, mean {statistics.mean(values):{sign}.2f} points"


def main() -> None:
    """Print the comparison."""
    given = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, Path(scratch))


if __name__ == "__main__":
    main()
