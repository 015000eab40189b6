"""Images a second from disk to batch: segops' packed store and policy against the usual way.

The usual way is a plain ``torch`` data set that reads JPEG and PNG files with Pillow and augments
with Albumentations' own transforms under the same parameters, in the same number of workers. Both
hand out uint8 batches of the same size; neither normalises. OpenCV runs on one thread in both. Two
things favour the usual way: rotation, shift and shear are one ``Affine`` of the probability that
any of them acts, and the generated photographs take a third of the bytes of real ones.
The two are measured in turn, so that both see the same machine.
Run: ``python benchmarks/input_pipeline.py [--voc DIRECTORY] [--workers 0 2]``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segops.augment.policy import build_policy
from segops.data.datasets import TrainDataset, train_loader
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams
from segops.runtime.bands import IMAGENET_MEAN_COLOR
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.threads import cores
from segops.voc.layout import Layout, open_layout
from tools.sample import generate

ROUNDS = 5
BATCH_SIZE = 16
WARM_UP_BATCHES = 6
TIMED_BATCHES = 14


def usual_policy(params: AugmentParams) -> A.Compose:
    """Albumentations' own transforms under the parameters of `params`."""
    height, width = params.crop
    fill: dict[str, Any] = {"fill": IMAGENET_MEAN_COLOR, "fill_mask": VOID}
    low, high = params.scale.range
    none_acts = (1 - params.rotate.p) * (1 - params.shift.p) * (1 - params.shear.p)
    shift, shear, jitter = params.shift.limit, params.shear.limit, params.color_jitter
    return A.Compose(
        [
            A.RandomScale(scale_limit=(low - 1, high - 1), p=params.scale.p),
            A.PadIfNeeded(height, width, border_mode=cv2.BORDER_CONSTANT, **fill),
            A.RandomCrop(height, width),
            A.HorizontalFlip(p=params.flip.p),
            A.Affine(
                rotate=(-params.rotate.limit, params.rotate.limit),
                translate_percent=(-shift, shift),
                shear=(-shear, shear),
                p=1 - none_acts,
                **fill,
            ),
            A.ColorJitter(
                brightness=jitter.brightness,
                contrast=jitter.contrast,
                saturation=jitter.saturation,
                hue=jitter.hue,
                p=jitter.p,
            ),
            A.GaussianBlur(sigma_limit=params.blur.sigma, p=params.blur.p),
            A.GaussNoise(std_range=params.noise.std, p=params.noise.p),
            A.ToTensorV2(),
        ]
    )


class UsualDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Files read with Pillow at every access, over and over without an end of an epoch."""

    def __init__(self, layout: Layout, policy: A.Compose, length: int) -> None:
        self.ids = layout.ids("train")
        self.layout = layout
        self.policy = policy
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_id = self.ids[index % len(self.ids)]
        with Image.open(self.layout.image_path(image_id)) as file:
            image = np.array(file.convert("RGB"))
        with Image.open(self.layout.mask_path(image_id)) as file:
            mask = np.array(file)
        result = self.policy(image=image, mask=mask)
        return result["image"], result["mask"]


def images_per_second(batches: Iterable[Any]) -> float:
    """Images a second once the workers are under way."""
    stream = iter(batches)
    for _ in range(WARM_UP_BATCHES):
        next(stream)
    start = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        next(stream)
    return TIMED_BATCHES * BATCH_SIZE / (time.perf_counter() - start)


def compare(voc: Path, packed: Path, workers: int) -> None:
    """Measure both ways in turn and print the medians and their ratio."""
    params = AugmentParams()
    layout = open_layout(voc)
    store = PackedStore(packed)
    ids = store.ids("train")
    needed = (WARM_UP_BATCHES + TIMED_BATCHES) * BATCH_SIZE
    usual = UsualDataset(layout, usual_policy(params), 2 * needed)
    ours = TrainDataset(store, ids, build_policy(params), seed=0)
    sampler = EpochSampler(len(ids), BATCH_SIZE, seed=0)
    ways: dict[str, Callable[[], Iterable[Any]]] = {
        "segops": lambda: train_loader(ours, BatchStream(sampler, 2 * needed), workers=workers),
        "usual": lambda: DataLoader(usual, BATCH_SIZE, shuffle=True, num_workers=workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, make in ways.items():
            rates[name].append(images_per_second(make()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{workers} worker(s), crop {params.crop[0]} x {params.crop[1]}, median of {ROUNDS}:")
    for name, median in medians.items():
        print(f"  {name:>6}: {median:7.1f} images/s  ({1000 / median:.2f} ms an image)")
    print(f"  ratio:  {medians['segops'] / medians['usual']:7.2f}")


def main() -> None:
    """Generate or take data, pack it, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--voc", type=Path, help="data in VOC layout; generated where not given")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, min(2, cores())])
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        voc = arguments.voc or Path(directory) / "voc"
        if arguments.voc is None:
            generate(voc, train=24, val=1, seed=0, size=(500, 375))
        packed = Path(directory) / "packed"
        pack(open_layout(voc), packed, VOC_CLASSES, workers=2)
        for workers in arguments.workers:
            compare(voc, packed, workers)


if __name__ == "__main__":
    main()
