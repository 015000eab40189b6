"""Time of one optimiser step: segops against a plain SMP and torch loop in float32.

Both train the same network from the same start on the same batches, on the same threads. The plain
loop is what a tutorial shows: `smp`, float images in NCHW, `torch.optim.AdamW`,
`F.cross_entropy(ignore_index=255)`. Ours is what the stage runs, deterministic kernels included, in
fp32, in the precision that `auto` chooses on this machine, and with `--compile` compiled too (a
minute or two for the first step). Steps are taken in turn, so that both see the same machine.
The network is that of ``params.yaml`` unless another is named. Beside the ratios stands the most
that any loop could reach in fp32 here: the step's products and convolutions alone, at the rate at
which torch multiplies large matrices. A CPU with bf16 or AMX is not bound by it.
Run: ``python -m benchmarks.training_step [--architecture unet] [--encoder resnet18] ...``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import (
    generated_store,
    job_of,
    matmul_peak,
    random_batch,
    settings_of,
    step_flops,
)
from segops.data.store import PackedStore
from segops.params.file import Params
from segops.params.hardware import HardwareParams
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.networks.zoo import IMAGENET_MEAN, IMAGENET_STD
from segops.train.engine import Engine
from segops.train.hardware import build_fabric, choose_threads, reproducible

CLASSES = len(VOC_CLASSES)
ROUNDS = 7
MATRIX = 1024
LEARNING_RATE = 1e-3
Step = Callable[[], Tensor]


def plain_network(settings: Params) -> Any:
    """The network as SMP makes it."""
    model = settings.model
    return smp.create_model(
        model.architecture, model.encoder, encoder_weights=None, classes=CLASSES
    )


def plain(settings: Params, images: Tensor, masks: Tensor) -> Step:
    """The loop of a tutorial."""
    torch.manual_seed(settings.train.seed)
    network = plain_network(settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    images = images.contiguous()

    def step() -> Tensor:
        logits = network((images.float() / 255 - mean) / std)
        loss = functional.cross_entropy(logits, masks.long(), ignore_index=VOID)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


def ours(
    settings: Params, store: PackedStore, images: Tensor, masks: Tensor, **changes: Any
) -> Step:
    """What the stage runs."""
    train = settings.train.model_validate(settings.train.model_dump() | changes)
    changed = settings.model_copy(update={"train": train})
    fabric, device, _ = build_fabric(train)
    engine = Engine(job_of(changed, store, store.path.parent), fabric)
    engine.train_mode()
    threads = torch.get_num_threads()

    def step() -> Tensor:
        with reproducible(device, threads, train.deterministic):
            return engine.step(images, masks, 0, LEARNING_RATE)

    return step


def main() -> None:
    """Compare and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--architecture")
    parser.add_argument("--encoder")
    parser.add_argument("--crop", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(choose_threads(HardwareParams(threads=given.threads)))
    settings = settings_of(loss="cross_entropy", optimizer="adamw", device="cpu", lr=LEARNING_RATE)
    named = {"architecture": given.architecture, "encoder": given.encoder}
    model = {key: value for key, value in named.items() if value}
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=model)})
    crop = (given.crop, given.crop) if given.crop else settings.augment.crop
    size = given.batch_size or settings.train.batch_size
    images, masks = random_batch(size, crop, CLASSES)
    with tempfile.TemporaryDirectory() as directory:
        store = generated_store(Path(directory), 1)
        steps = {
            "plain fp32": plain(settings, images, masks),
            "segops fp32": ours(settings, store, images, masks, precision="fp32"),
            "segops auto": ours(settings, store, images, masks, precision="auto"),
        }
        if given.compile:
            compiled = {"precision": "auto", "compile": True, "deterministic": False}
            steps["segops compiled"] = ours(settings, store, images, masks, **compiled)
        report(settings, steps, size, crop)


def report(settings: Params, steps: dict[str, Step], size: int, crop: tuple[int, int]) -> None:
    """Take the steps in turn, then print what they took."""
    first = {name: float(step()) for name, step in steps.items()}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    busy: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start, cpu = time.perf_counter(), time.process_time()
            step()
            busy[name].append(time.process_time() - cpu)
            wall[name].append(time.perf_counter() - start)
    print(
        f"{settings.model.architecture}, {settings.model.encoder}, {size} crops of "
        f"{crop[0]} x {crop[1]} px, {torch.get_num_threads()} threads, median of {ROUNDS}"
    )
    reference = statistics.median(wall["plain fp32"])
    for name in steps:
        median = statistics.median(wall[name])
        print(
            f"{name:>15}: {median:6.3f} s a step ({statistics.median(busy[name]):.3f} s of CPU), "
            f"{size / median:5.1f} images/s, {reference / median:4.2f} times plain, "
            f"first loss {first[name]:.4f}"
        )
    peak = matmul_peak(torch.device("cpu"), MATRIX, torch.float32)
    flops = step_flops(plain_network(settings).to("meta"), (size, 3, *crop))
    least = flops / peak
    print(
        f"{'fp32 at most':>15}: {least:6.3f} s a step, {reference / least:4.2f} times plain "
        f"({flops / 1e9:.1f} GFLOP at the {peak / 1e9:.0f} GFLOP/s of a matrix product)"
    )


if __name__ == "__main__":
    main()
