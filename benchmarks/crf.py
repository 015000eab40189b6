"""Time of the dense CRF on one thread: 375x500 pixels and 21 classes, as a VOC photograph has them.

The image is made of noise of all sizes, so that its lattice has as many vertices as a photograph's.
Run: ``python -m benchmarks.crf``.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from segops.runtime.crf import refine
from segops.runtime.predict_settings import CrfSettings

CLASSES = 21
HEIGHT, WIDTH = 375, 500
ROUNDS = 5
ITERATIONS = (1, 5, 10)


def photograph() -> Tensor:
    """Noise whose strength grows with its size, uint8 (HEIGHT, WIDTH, 3)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    for size in (1, 4, 16, 64):
        grid = torch.randn(1, 3, HEIGHT // size + 2, WIDTH // size + 2, generator=generator)
        image += size**0.6 * functional.interpolate(grid, size=(HEIGHT, WIDTH), mode="bilinear")
    return (128 + 4 * image[0]).clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def probabilities() -> Tensor:
    """Coarse probabilities as a network of stride 16 gives them, float32 (CLASSES, H, W)."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(1, CLASSES, HEIGHT // 16, WIDTH // 16, generator=generator)
    return functional.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear")[0].softmax(0)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the medians, and the memory that the process took at most."""
    torch.set_num_threads(1)
    image, given = photograph(), probabilities()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for iterations in ITERATIONS:
        settings = CrfSettings(iterations=iterations)
        times = [seconds(partial(refine, given, image, settings)) for _ in range(ROUNDS)]
        median = statistics.median(times)
        print(f"{iterations:>3} iterations: {median:6.3f} s an image (median of {ROUNDS})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'memory':>14}: {(peak - before) / 1024:6.0f} MiB more than before")


if __name__ == "__main__":
    main()
