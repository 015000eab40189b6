"""Time of one optimiser step: segops against a plain SMP and torch loop in float32.

Both train the same network from the same start on the same batches, on the same threads. The plain
loop is what a tutorial shows: `smp`, float images in NCHW, `torch.optim.AdamW`,
`F.cross_entropy(ignore_index=255)`. Ours is what the stage runs, deterministic kernels included, in
the precision that `auto` chooses on this machine. Steps are taken in turn, so that both see the
same machine.
Run: ``python benchmarks/training_step.py [--architecture unet] [--encoder resnet18] ...``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from segops.models.losses import build_loss
from segops.models.zoo import IMAGENET_MEAN, IMAGENET_STD, ModelSpec, build
from segops.params import HardwareParams, TrainParams
from segops.train.hardware import build_fabric, choose_layout, choose_threads, reproducible
from segops.train.optimizers import build_optimizer
from segops.voc.classes import VOID

CLASSES = 21
ROUNDS = 5
LEARNING_RATE = 1e-3
Step = Callable[[], Tensor]


def batch(size: int, crop: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, 3, crop, crop), and masks, uint8 (N, crop, crop), a tenth of them void."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, CLASSES, (size, crop, crop), dtype=torch.uint8, generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = VOID
    return images, masks


def plain(architecture: str, encoder: str, images: Tensor, masks: Tensor) -> Step:
    """The loop of a tutorial."""
    torch.manual_seed(0)
    network = smp.create_model(architecture, encoder, encoder_weights=None, classes=CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))

    def step() -> Tensor:
        logits = network((images.float() / 255 - mean) / std)
        loss = functional.cross_entropy(logits, masks.long(), ignore_index=VOID)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


def ours(architecture: str, encoder: str, images: Tensor, masks: Tensor, precision: str) -> Step:
    """What the stage runs."""
    params = TrainParams.model_validate(
        {"lr": LEARNING_RATE, "precision": precision, "device": "cpu", "optimizer": "adamw"}
    )
    fabric, device, _ = build_fabric(params)
    torch.manual_seed(0)
    network = build(ModelSpec(architecture, encoder, CLASSES))
    layout = choose_layout(params, network, device)
    network.to(memory_format=layout)
    model, optimizer = fabric.setup(network, build_optimizer(network.parameters(), params))
    loss_of = build_loss(params.loss)
    images = images.contiguous(memory_format=layout)
    threads = torch.get_num_threads()

    def step() -> Tensor:
        with reproducible(device, threads):
            loss = loss_of(model(images), masks)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    return step


def main() -> None:
    """Compare and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    torch.set_num_threads(choose_threads(HardwareParams(threads=given.threads)))
    model = (given.architecture, given.encoder, *batch(given.batch_size, given.crop))
    steps = {
        "plain fp32": plain(*model),
        "segops fp32": ours(*model, "fp32"),
        "segops auto": ours(*model, "auto"),
    }
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
        f"{given.architecture}, {given.encoder}, {given.batch_size} crops of {given.crop} px, "
        f"{torch.get_num_threads()} threads, median of {ROUNDS}"
    )
    reference = statistics.median(wall["plain fp32"])
    for name in steps:
        median = statistics.median(wall[name])
        print(
            f"{name:>12}: {median:6.3f} s a step ({statistics.median(busy[name]):.3f} s of CPU), "
            f"{given.batch_size / median:5.1f} images/s, {reference / median:4.2f} times plain, "
            f"first loss {first[name]:.4f}"
        )


if __name__ == "__main__":
    main()
