"""A pruned network against the full one, and against the same small network trained from scratch.

The full network is that of the repository's ``params.yaml``, trained as they say. Of each seed two
small networks of the same shapes are trained for equal steps: one starts from what pruning leaves
of the full network, the other from random weights. The data are the shipped sample, generated anew.
Then full and pruned network predict the same images in turn, on one thread, by torch and by ONNX
Runtime. Parameters are those that the logits depend on: PSPNet leaves stages of its encoder unused.
Run: ``python -m benchmarks.pruning [--share 0.3] [--epochs 10] [--seeds 3] [--teacher] ...``;
``--keep DIRECTORY`` keeps the data and the full network for the next run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import job_of, settings_of
from benchmarks.distillation import score, store_of, teacher_of
from segops.data.store import PackedStore
from segops.export import make
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.classes import VOC_CLASSES
from segops.train.job import Job
from segops.train.loop import train
from segops.train.start import Start
from segops.train.teacher import Teacher
from tools.sample import SHIPPED

TURNS = 2
"""Each of the timed networks predicts every image so often."""


def main() -> None:
    """Train the networks, time them, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--full-epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=SHIPPED["train"])
    parser.add_argument("--teacher", action="store_true", help="also distil from the full network")
    parser.add_argument("--split", choices=("val", "selection"), default="val")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given, given.keep or Path(scratch), Path(scratch))


def compare(given: argparse.Namespace, home: Path, scratch: Path) -> None:
    """Compare in `home`, and put into `scratch` what no later run needs."""
    store = store_of(home, given.images)
    full = home / "teacher"
    teacher = teacher_of(settings_of(epochs=given.full_epochs), store, full)
    start = Start.of(full, str(full))
    some = job_of(settings_of(), store, scratch)
    first = score(load_bundle(full).network, some, given.split)
    scores: dict[str, list[float]] = {"pruned": [], "from scratch": []}
    for seed in range(given.seeds):
        for name, found in scores.items():
            job = small_job(given, seed, store, start, scratch / f"{name} {seed}")
            taught = teacher if given.teacher and name == "pruned" else None
            found.append(trained(job, name, taught, scratch / "small", given.split))
        told = ", ".join(f"{name} {found[-1]:.2f}" for name, found in scores.items())
        print(f"seed {seed}: {told}", flush=True)
    gains = [one - other for one, other in zip(*scores.values(), strict=True)]
    mean = statistics.mean(scores["pruned"])
    print(
        f"mIoU on {given.split}: full {first:.2f}, pruned by {given.share:g} {mean:.2f} "
        f"({mean - first:+.2f}); over the same network from scratch {statistics.mean(gains):+.2f}, "
        f"it wins {sum(gain > 0 for gain in gains)} of {len(gains)}"
    )
    timed(store, full, scratch)


def small_job(
    given: argparse.Namespace, seed: int, store: PackedStore, start: Start, directory: Path
) -> Job:
    """The training of a pruned network."""
    changes = {"epochs": given.epochs, "seed": seed, "lr": given.lr, "pruning": given.share}
    settings = settings_of(**changes, teacher="full" if given.teacher else None)
    job = job_of(settings, store, directory)
    start = start.pruned(job.spec, given.share)
    spec = replace(job.spec, pruned_shapes=start.pruned_shapes)
    return replace(job, spec=spec, start=start)


def trained(job: Job, name: str, teacher: Teacher | None, bundle: Path, split: str) -> float:
    """Train; the mIoU in points. A pruned network's bundle is written."""
    if name == "pruned":
        job = replace(job, teacher=teacher)
    else:
        params = job.params.model_copy(update={"teacher": None})
        job = replace(job, start=None, params=params)
    network = train(job).network
    if name == "pruned":
        write_trained(bundle, network, job.spec, VOC_CLASSES, {}, {})
        package(bundle, bundle)
    return score(network, job, split)


def timed(store: PackedStore, full: Path, scratch: Path) -> None:
    """Print parameters, milliseconds an image and their ratios."""
    torch.set_num_threads(1)
    bundles = {"full": full, "pruned": scratch / "small"}
    runners: dict[str, list[BundledPredictor]] = {"torch": [], "onnx": []}
    for name, bundle in bundles.items():
        make.export(bundle, {"onnx": scratch / f"{name}.onnx"})
        runners["torch"].append(load_bundle(bundle))
        runners["onnx"].append(load_bundle(scratch / f"{name}.onnx", threads=1))
    sizes = [parameters_used(one.network) for one in runners["torch"]]
    print(f"parameters: full {sizes[0]:,}, pruned {sizes[1]:,}, {sizes[1] / sizes[0]:.2f}")
    for name, pair in runners.items():
        taken: tuple[list[float], list[float]] = ([], [])
        for image_id in store.ids("val") * TURNS:
            for one, times in zip(pair, taken, strict=True):
                started = time.process_time()
                one.predict_mask(store.image(image_id))
                times.append(1000 * (time.process_time() - started))
        before, after = map(statistics.median, taken)
        print(
            f"{name}, one thread: full {before:.1f} ms an image, pruned {after:.1f}, "
            f"{after / before:.2f}"
        )


def parameters_used(network: nn.Module) -> int:
    """Number of the parameters that the logits depend on."""
    network.requires_grad_(True)
    network(torch.zeros(1, 3, 64, 64)).sum().backward()
    found = sum(one.numel() for one in network.parameters() if one.grad is not None)
    network.requires_grad_(False)
    return found


if __name__ == "__main__":
    main()
