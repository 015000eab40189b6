"""How fast data are scanned and packed, against a bare parallel decode of the same files.

All three read the same files with a thread for each core, in turns; of many files the scan reads
with processes in their place. The ratios are those of the medians, of the time that passes and of
the processor's. The scan also hashes and checks every file, and counts labels, borders and colours.
Packing also hashes and checks, writes all pixels and waits until the disk has them; the time that
the disk takes for these bytes alone is printed beside it.
Run: ``python -m benchmarks.scan_and_pack [--voc DIRECTORY] [--counts 1000 10000] [--at DIRECTORY]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.quality.facts import scan
from segops.runtime.bands import RGB
from segops.runtime.classes import VOC_CLASSES
from segops.threads import cores
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout, open_layout
from tools.sample import generate

SIZE = (500, 375)
BASE = 40
BLOCK = 1 << 26


def many(base: Layout, root: Path, count: int) -> Layout:
    """A data set of `count` images: those of `base`, shifted and encoded anew: all differ."""
    layout = Layout(root)
    for name in (IMAGES, MASKS, LISTS):
        (root / name).mkdir(parents=True)
    sources = [image_id for ids in base.splits().values() for image_id in ids]

    def write(number: int) -> None:
        source, shift = sources[number % len(sources)], 7 * (number // len(sources))
        for path, target in (
            (base.image_path(source), layout.image_path(f"{number:06}")),
            (base.mask_path(source), layout.mask_path(f"{number:06}")),
        ):
            with Image.open(path) as image:
                moved = Image.fromarray(np.roll(np.asarray(image), shift, axis=1))
                if image.mode == "P":
                    moved.putpalette(image.getpalette() or [])
            moved.save(target, quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, range(count)))
    cut = count * 4 // 5
    for split, numbers in (("train", range(cut)), ("val", range(cut, count))):
        layout.list_path(split).write_text("".join(f"{number:06}\n" for number in numbers))
    return open_layout(root)


def bare(layout: Layout) -> None:
    """Decode every image and mask to arrays, and do nothing else."""

    def decode(image_id: str) -> None:
        with Image.open(layout.image_path(image_id)) as image:
            np.asarray(image.convert("RGB"))
        with Image.open(layout.mask_path(image_id)) as mask:
            np.asarray(mask)

    ids = [image_id for ids in layout.splits().values() for image_id in ids]
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(decode, ids))


def written(directory: Path, size: int) -> None:
    """Write `size` bytes, and wait until the disk has them."""
    block = np.random.default_rng(0).bytes(BLOCK)
    with (directory / "written").open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())
    (directory / "written").unlink()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that one pass takes, and seconds of the processor, which other work disturbs less.

    Those of the processes that the work starts count too.
    """
    start, before = time.perf_counter(), os.times()
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - sum(before[:4])


def compare(layout: Layout, directory: Path, count: int) -> None:
    """Measure and print."""
    packed = directory / "packed"
    sides: dict[str, Callable[[], object]] = {
        "bare decode": partial(bare, layout),
        "scan": partial(scan, layout, cores()),
        "pack": partial(pack, layout, packed, VOC_CLASSES, workers=cores()),
    }
    for work in sides.values():  # files into the page cache
        work()
    turns = [[timed(work) for work in sides.values()] for _ in range(5 if count <= 1000 else 2)]
    medians = [
        [statistics.median(kind) for kind in zip(*side, strict=True)]
        for side in zip(*turns, strict=True)
    ]
    wall, processor = medians[0]
    store = PackedStore(packed)
    pixels = sum(
        height * width
        for split in layout.splits()
        for height, width in map(store.size, store.ids(split))
    )
    disk, _ = timed(partial(written, directory, (RGB + 1) * pixels))
    print(f"{count} pairs, {cores()} threads (a ratio of 0.8 or more is wanted):")
    for name, (seconds, busy) in zip(sides, medians, strict=True):
        print(
            f"  {name:>11}: {count / seconds:6.0f} images/s, ratio {wall / seconds:.2f}; "
            f"{1000 * busy / count:.2f} ms of the processor, ratio {processor / busy:.2f}"
        )
    print(f"  disk, for the store's bytes: {count / disk:6.0f} images/s, {wall / disk:.2f}")


def main() -> None:
    """Make data sets, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--voc", type=Path, help="images to start from; generated where not given")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--at", type=Path, help="directory for data and stores")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.at) as name:
        directory = Path(name)
        if arguments.voc is None:
            generate(directory / "base", train=BASE - 1, val=1, seed=0, size=SIZE)
        base = open_layout(arguments.voc or directory / "base")
        for count in arguments.counts:
            compare(many(base, directory / str(count), count), directory, count)


if __name__ == "__main__":
    main()
