"""Frames a second on one thread: PIDNet-S beside PSPNet on ResNet-18, 512x1024 pixels, 19 classes.

The networks take turns, so that both meet the same machine. Weights are random: they do not change
the speed. Run: ``python -m benchmarks.real_time``.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from segops.runtime.networks.zoo import ModelSpec, build

CLASSES = 19
HEIGHT, WIDTH = 512, 1024
ROUNDS = 7
NETWORKS = {
    "PIDNet-S": ModelSpec("pidnet", "", CLASSES),
    "PSPNet, ResNet-18": ModelSpec("pspnet", "resnet18", CLASSES),
}


@torch.inference_mode()
def seconds(network: nn.Module, images: torch.Tensor) -> float:
    """Wall time of one image."""
    start = time.perf_counter()
    network(images)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians and their ratio."""
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    networks = {
        name: build(spec).eval().to(memory_format=torch.channels_last)
        for name, spec in NETWORKS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(ROUNDS + 1):
        for name, network in networks.items():
            took = seconds(network, images)
            if number:  # the first round warms up
                times[name].append(took)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        parameters = sum(one.numel() for one in networks[name].parameters())
        print(f"{name:>18}: {1 / median:5.2f} frames/s, {parameters / 1e6:.1f} million parameters")
    first, second = medians.values()
    print(f"{'ratio':>18}: {second / first:5.2f} times the frames of PSPNet")


if __name__ == "__main__":
    main()
