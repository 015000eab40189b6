"""Which executor augments: one core each sample, or the training's device whole batches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from segops.augment.policy import Policy
from segops.data.device.batches import refusal, unsupported

Executor = Literal["cpu", "gpu"]

CORE_PIXELS = 60e6
"""Pixels of crops that one core augments in a second under the full policy: 230 crops of 512 px."""

PIXEL_FLOPS = 280e3
"""Operations of a forward pass per pixel, where nobody can count them: those of DeepLabV3+ with
ResNet-50 (73 GFLOP at 512 px)."""

PASSES = 3
"""A training step costs about three forward passes: the backward pass takes two."""

UTILISATION = 0.35
"""Share of a card's peak that training a convolutional network reaches."""

CYCLE_FLOPS = {7: 1024, 8: 1024, 9: 4096, 10: 8192, 12: 1024}
"""Dense 16-bit operations of a multiprocessor in a cycle, by major compute capability."""
A100_CYCLE_FLOPS = 2048

log = logging.getLogger("segops")


def choose_executor(
    wanted: str,
    device: torch.device | str,
    policy: Policy,
    *,
    cores: int = 1,
    pixel_flops: Callable[[], float] = lambda: PIXEL_FLOPS,
) -> Executor:
    """`cpu` or `gpu`, as ``augment.device`` says.

    `auto` is `gpu` if there is a GPU, the policy can run there, and the cores cannot feed it::

        cores * CORE_PIXELS  <  peak * UTILISATION / (PASSES * pixel_flops)

    pixels of crops that the cores augment in a second against those that the card trains. Both
    sides are reckoned, from constants measured once and from what the card says of itself, and not
    timed: a machine must choose the same at every start, because the executors differ in bits.

    Args:
        wanted: `cpu`, `gpu` or `auto`.
        device: The training's device. With `gpu` on a CPU batches are augmented there, for tests
            and for trying a recipe; it is slower than `cpu`.
        policy: The augmentation.
        cores: Processes that would augment for this device on the CPU, 1 or more.
        pixel_flops: Counts the operations of a forward pass of the network per pixel of a crop;
            called only where the choice depends on it.

    Raises:
        SegopsError: `gpu` is asked for, and a part of the policy acts on the CPU alone.
    """
    device = torch.device(device)
    if wanted == "cpu":
        return "cpu"
    missing = unsupported(policy)
    if wanted == "gpu":
        if missing:
            raise refusal(missing)
        if device.type != "cuda":
            log.warning(
                "augment.device: gpu, but the training runs on %s: batches are augmented there, "
                "slower than with augment.device: cpu.",
                device.type,
            )
        return "gpu"
    if missing or device.type != "cuda":
        return "cpu"
    fed = max(1, cores) * CORE_PIXELS
    trained = peak_flops(torch.cuda.get_device_properties(device)) * UTILISATION
    trained /= PASSES * pixel_flops()
    chosen: Executor = "gpu" if fed < trained else "cpu"
    log.info(
        "augment.device: auto: %d core(s) augment about %.0f million pixels a second, the card "
        "trains about %.0f million: batches are augmented on the %s.",
        cores,
        fed / 1e6,
        trained / 1e6,
        chosen.upper(),
    )
    return chosen


def pixel_flops(forward: Callable[[Tensor], object], crop: tuple[int, int]) -> float:
    """Operations of the products and convolutions of a forward pass, per pixel of a crop.

    Nothing is computed, on no device. The backward pass is not counted along: torch takes that of
    a convolution in groups for one without (torch 2, 22 times too many with EfficientNet).

    Args:
        forward: A network on the device "meta"; takes images (1, 3, h, w).
        crop: Height and width, in pixels.

    Returns:
        The number; :data:`PIXEL_FLOPS` for a network that needs values to be run.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes 0.3 s

    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            forward(torch.empty((1, 3, *crop), device="meta"))
    except RuntimeError as error:
        log.info(
            "augment.device: auto: the network's operations cannot be counted (%s); it counts as "
            "DeepLabV3+ with ResNet-50.",
            str(error).split("\n", 1)[0],
        )
        return PIXEL_FLOPS
    return counter.get_total_flops() / (crop[0] * crop[1])


def peak_flops(card: Any) -> float:
    """Dense 16-bit operations a second that a card's tensor cores can do.

    Args:
        card: What ``torch.cuda.get_device_properties`` tells.
    """
    per_cycle = CYCLE_FLOPS.get(card.major, 4096 if card.major > 9 else 128)
    if (card.major, card.minor) == (8, 0):
        per_cycle = A100_CYCLE_FLOPS
    return float(card.multi_processor_count * card.clock_rate * 1e3 * per_cycle)
