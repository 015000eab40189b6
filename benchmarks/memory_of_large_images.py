"""Memory for images of 4, 16 and 100 megapixels in every step that reads them.

Each figure is by how much the private memory of a process grew at most, polled from outside; what
is mapped from files is not counted, because the system takes it back when memory is short. Samples
are of crops of the default policy, without and with copy-paste. They begin with none of the store
in memory; the bytes that they read from the disk are printed too.
Run: ``python -m benchmarks.memory_of_large_images [--megapixels 4 16 100]``. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image

from segops.augment.policy import build_policy
from segops.data.copy_paste import CopyPaste
from segops.data.datasets import TrainDataset
from segops.data.device.augmentation import device_batches
from segops.data.imbalance import RareFirst
from segops.data.packing import pack
from segops.data.samplers import BatchStream, EpochSampler
from segops.data.store import IMAGES as STORED_IMAGES
from segops.data.store import PackedStore
from segops.evaluate.scoring import Predicted, judge
from segops.label_check.judge import judge as judge_labels
from segops.params.augment import AugmentParams
from segops.params.samples import CopyPasteParams
from segops.predict.bundle import BundledPredictor
from segops.quality.duplicates import find
from segops.quality.facts import scan
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.images import image_size, read_image
from segops.runtime.masks import write_mask
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.selection import selection_confusion
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout, open_layout
from segops.words import MIB
from tests.support.large_image import Brightest, windowed

THREADS = 8
SAMPLES = 20
TRAIN = 3
BLOCK = 100
POLL_SECONDS = 0.002


def make(root: Path, side: int) -> None:
    """A data set of four images of `side` x `side`, in blocks of a colour and a class; packed."""
    layout = Layout(root / "voc")
    for name in (IMAGES, MASKS, LISTS):
        (layout.root / name).mkdir(parents=True)
    ids = [f"image{number}" for number in range(TRAIN + 1)]
    for number, image_id in enumerate(ids):
        blocks = np.random.default_rng(number).integers(0, 256, (side // BLOCK,) * 2 + (4,))
        pixels = blocks.astype(np.uint8).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
        Image.fromarray(pixels[..., :3]).save(layout.image_path(image_id), quality=90)
        write_mask(layout.mask_path(image_id), (pixels[..., 3] % 7).astype(np.uint8))
    for split, listed in (("train", ids[:TRAIN]), ("val", ids[TRAIN:])):
        layout.list_path(split).write_text("".join(f"{one}\n" for one in listed))
    pack(open_layout(layout.root), root / "packed", VOC_CLASSES, workers=1)


def part_scan(root: Path) -> None:
    """Scan by eight threads."""
    scan(open_layout(root / "voc"), THREADS)


def part_pack(root: Path) -> None:
    """Pack by eight threads."""
    pack(open_layout(root / "voc"), root / "again", VOC_CLASSES, workers=THREADS)


def part_samples(root: Path, copies: CopyPasteParams | None = None) -> None:
    """Make training samples."""
    store = PackedStore(root / "packed")
    ids = store.ids("train")
    pasted = None if copies is None else CopyPaste.of(store, ids, copies)
    data = TrainDataset(store, ids, build_policy(AugmentParams()), 0, pasted)
    before = _read_bytes()
    for index in range(SAMPLES):
        data[0, index]
    size = sum(crop.numel() for crop in data[0, 0])
    sys.stdout.write(f"{(_read_bytes() - before) / SAMPLES / MIB:.1f} of {size / MIB:.1f} MiB")


def part_copies(root: Path) -> None:
    """Make training samples with copied objects."""
    part_samples(root, CopyPasteParams(p=1.0))


def part_batches(root: Path) -> None:
    """Make batches of training samples as for a GPU, of images that show rare classes."""
    store = PackedStore(root / "packed")
    ids = store.ids("train")
    data = TrainDataset(store, ids, build_policy(AugmentParams()), 0)
    sampler = EpochSampler(len(ids), 2, 0, RareFirst.of(store, ids))
    for _ in device_batches(data, BatchStream(sampler, SAMPLES // 2), device=torch.device("cpu")):
        pass


def part_selection(root: Path) -> None:
    """Score the images that choose a checkpoint."""
    store = PackedStore(root / "packed")
    predictor = TorchPredictor(Brightest(len(VOC_CLASSES)), VOC_CLASSES)
    alone = Fabric(accelerator="cpu", devices=1)
    selection_confusion(predictor, store, store.ids("val"), alone)


def part_alike(root: Path) -> None:
    """Compare images that may show the same picture."""
    layout = open_layout(root / "voc")
    ids = layout.splits()["train"]
    sizes = [image_size(layout.image_path(one)) for one in ids]
    facts = pd.DataFrame(
        [(one, "train", None, "0" * 16, *size) for one, size in zip(ids, sizes, strict=True)],
        columns=["image_id", "split", "image_pixels", "perceptual_hash", "width", "height"],
    )
    find(facts, lambda image_id: read_image(layout.image_path(image_id)))


def part_labels(root: Path) -> None:
    """Judge the labels of an image."""
    store = PackedStore(root / "packed")
    predictor = windowed(Brightest(len(VOC_CLASSES)), 1000)
    judge_labels(cast("BundledPredictor", predictor), store, store.ids("val")[0])


def part_predict(root: Path) -> None:
    """Predict an image of the store by windows."""
    store = PackedStore(root / "packed")
    windowed(Brightest(len(VOC_CLASSES)), 1000).predict(store.image(store.ids("val")[0]))


def part_score(root: Path) -> None:
    """Judge a prediction with all details; the prediction itself is not counted."""
    store = PackedStore(root / "packed")
    mask = store.mask(store.ids("val")[0])
    judge(Predicted("one", "", mask, mask[::-1], None), classes=len(VOC_CLASSES), details=True)


PARTS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("part_"): part for name, part in globals().items() if name.startswith("part_")
}


def measure(part: str, root: Path, small: Path) -> tuple[int, str]:
    """Growth of the private memory of a process that does a part, in bytes, and what it says."""
    for name in ("train", "val"):
        with (root / "packed" / name / STORED_IMAGES).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "benchmarks.memory_of_large_images", "--part", part]
    with subprocess.Popen(
        [*command, "--at", str(root), "--small", str(small)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = peak = _private(process.pid)
        process.stdin.write("\n")
        process.stdin.close()
        while process.poll() is None:
            peak = max(peak, _private(process.pid))
            time.sleep(POLL_SECONDS)  # the process needs the core
        said = process.stdout.read()
    assert process.returncode == 0, part
    return peak - before, said


def _private(pid: int) -> int:
    """Bytes of private memory of a process; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


def _read_bytes() -> int:
    """Bytes that this process has read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def main() -> None:
    """Make data, measure each part in a process of its own, print; or do a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megapixels", type=int, nargs="+", default=[4, 16, 100])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help="directory for data and stores")
    parser.add_argument("--small", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        work = PARTS[arguments.part]
        sys.stdout, said = sys.stderr, sys.stdout
        work(arguments.small)  # imports, threads and tables
        sys.stdout = said
        print("ready", flush=True)
        sys.stdin.readline()
        work(arguments.at)
        return
    with tempfile.TemporaryDirectory(dir=arguments.at) as name:
        small = Path(name) / "small"
        make(small, 600)
        print("growth of private memory, MiB")
        for megapixels in arguments.megapixels:
            root = Path(name) / str(megapixels)
            make(root, round(megapixels**0.5) * 1000)
            for part in PARTS:
                growth, said = measure(part, root, small)
                print(f"{megapixels:7} MP {part:>9} {growth / MIB:9.0f}  {said}", flush=True)


if __name__ == "__main__":
    main()
