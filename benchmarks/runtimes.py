"""What an image takes with torch and with each export: ONNX Runtime and OpenVINO, float32 and INT8.

Each of three architectures is exported with random weights, which do not change the speed; INT8 is
calibrated on noise. The runtimes take turns on one thread, each with the whole path from the pixels
to the mask. Printed are the medians and how many times torch's speed they are.
Run: ``python -m benchmarks.runtimes [--size 375 500] [--turns 9]``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from segops.export import make
from segops.predict.bundle import TORCH, load_bundle
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec, build

NETWORKS = {
    "PSPNet, ResNet-18": ("pspnet", "resnet18"),
    "DeepLabV3+, MobileNetV2": ("deeplabv3plus", "mobilenet_v2"),
    "U-Net, ResNet-18": ("unet", "resnet18"),
}


def milliseconds(
    architecture: str, encoder: str, size: tuple[int, int], turns: int, home: Path
) -> dict[str, float]:
    """Median wall time of an image of that size by each runtime."""
    spec = ModelSpec(architecture, encoder, len(VOC_CLASSES))
    write_trained(home / "bundle", build(spec).eval(), spec, VOC_CLASSES, {}, {})
    package(home / "bundle", home / "bundle")
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    installed = {name: home / name for name in make.usable()}
    make.export(home / "bundle", installed, ["noise"] * len(images), images)
    places = {TORCH: home / "bundle", **installed}
    predictors = {name: load_bundle(place, "cpu", threads=1) for name, place in places.items()}
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    for turn in range(turns + 1):
        for name, predictor in predictors.items():
            started = time.perf_counter()
            predictor.predict_mask(images[turn % len(images)])
            if turn:  # the first turn warms up
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for title, (architecture, encoder) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as home:
            size = (given.size[0], given.size[1])
            found = milliseconds(architecture, encoder, size, given.turns, Path(home))
        told = ", ".join(
            f"{name} {median:.1f} ms ({found[TORCH] / median:.2f})"
            for name, median in found.items()
        )
        print(f"{title}: {told}", flush=True)


if __name__ == "__main__":
    main()
