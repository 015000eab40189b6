"""Training steps on one card: ours in several settings, and loops as torchvision's references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import LoopStep, job_of, settings_of, step_flops
from segops.data.store import PackedStore
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.networks.zoo import IMAGENET_MEAN, IMAGENET_STD
from segops.train.engine import Engine
from segops.train.hardware import build_fabric, reproducible
from segops.train.job import Job

Take = Callable[[Tensor, Tensor], None]


class Plan(NamedTuple):
    """What is measured, and at which sizes.

    Attributes:
        device: `cuda` or `cpu`.
        precision: Of our loop: `bf16`, or `fp32` where the CPU has no bf16.
        encoder: The encoder of DeepLabV3+.
        crop: Side of the square crops, in pixels.
        batch_sizes: Images of a step.
        warm_up: Steps before the clock starts, after the first one.
        rounds: Times that each loop has its turn.
        seconds: Length of a turn, about.
        compile: Whether the compiled network is measured.
        images: Images in the packed store.
        size: Their usual width and height.
        matmul: Side of the matrices whose product gives the card's peak.
    """

    device: str
    precision: str
    encoder: str
    crop: int
    batch_sizes: tuple[int, ...]
    warm_up: int
    rounds: int
    seconds: float
    compile: bool
    images: int
    size: tuple[int, int]
    matmul: int


class TrainingLoop(NamedTuple):
    """A way of training.

    Attributes:
        take: Takes a step with images uint8 (N, 3, h, w) and masks uint8 (N, h, w).
        mode: What it needs to be set while it takes steps, anew for each turn.
    """

    take: Take
    mode: Callable[[], AbstractContextManager[Any]]


def job_on(plan: Plan, store: PackedStore, directory: Path, batch_size: int, **train: Any) -> Job:
    """A training of DeepLabV3+ with SGD on `store`."""
    settings = settings_of(
        **{
            "batch_size": batch_size,
            "device": plan.device,
            "precision": plan.precision,
            "channels_last": True,
            "loss": "cross_entropy",
            "optimizer": "sgd",
            # The published one would diverge on random masks; the speed is the same.
            "lr": 1e-4,
            "selection_share": 0.0,
            "deterministic": False,
        }
        | train
    )
    model = settings.model.model_copy(
        update={"architecture": "deeplabv3plus", "encoder": plan.encoder, "options": {}}
    )
    augment = type(settings.augment)(crop=(plan.crop, plan.crop))  # the full policy's defaults
    return job_of(
        settings.model_copy(update={"model": model, "augment": augment}), store, directory
    )


def ours(job: Job) -> TrainingLoop:
    """What our training loop does for every batch."""
    fabric, device, _ = build_fabric(job.params)
    threads = torch.get_num_threads()  # as the other loops

    def mode() -> AbstractContextManager[Any]:
        return reproducible(device, threads, job.params.deterministic)

    with mode():
        step = LoopStep(job, Engine(job, fabric))
    return TrainingLoop(step, mode)


def torchvision_style(plan: Plan, half: bool) -> TrainingLoop:
    """The step of torchvision's ``references/segmentation``, with and without `--amp`.

    NCHW float images, normalised in advance there and on the device here; autocast and a gradient
    scaler where `half`; the loss is read in every step, as its metric logger does.
    """
    device = torch.device(plan.device)
    torch.manual_seed(0)
    network = smp.DeepLabV3Plus(plan.encoder, encoder_weights=None, classes=len(VOC_CLASSES))
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    mean, std = (
        torch.tensor(one, device=device).view(1, 3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD)
    )

    def take(images: Tensor, masks: Tensor) -> None:
        inputs = ((images.contiguous().to(device).float() / 255) - mean) / std
        target = masks.to(device).long()
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = functional.cross_entropy(network(inputs), target, ignore_index=VOID)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return TrainingLoop(take, nullcontext)


def image_flops(plan: Plan) -> float:
    """Operations of a forward and a backward pass for one image, counted on two of them."""
    network: nn.Module = smp.DeepLabV3Plus(
        plan.encoder, encoder_weights=None, classes=len(VOC_CLASSES)
    ).to("meta")
    return step_flops(network, (2, 3, plan.crop, plan.crop)) / 2


def training_loops(
    plan: Plan, store: PackedStore, directory: Path, batch_size: int
) -> Iterator[tuple[str, Callable[[], TrainingLoop]]]:
    """Names and makers of all that are compared at a batch size."""

    def make(**train: Any) -> Callable[[], TrainingLoop]:
        return lambda: ours(job_on(plan, store, directory, batch_size, **train))

    name = f"segops {plan.precision}"
    if plan.compile:
        yield f"{name}, compiled", make(compile=True)
    yield name, make()
    yield f"{name}, deterministic", make(deterministic=True)
    yield "torchvision style, fp16", lambda: torchvision_style(plan, half=True)
    yield "torchvision style, fp32", lambda: torchvision_style(plan, half=False)
