"""How fast the scan of a data set is, against a bare parallel decode of the same files.

Both sides read the same files with the same number of threads, in turns, in one process; the ratio
is that of the medians. The scan also hashes every file, checks it, and counts its labels.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from segops.quality.facts import MAX_WORKERS, scan
from segops.threads import cores
from segops.voc.layout import Layout, open_layout
from tools.sample import generate

IMAGES = 120
SIZE = (500, 375)
TURNS = 5


def bare(layout: Layout) -> None:
    """Decode every image and mask to arrays, and do nothing else."""

    def decode(image_id: str) -> None:
        with Image.open(layout.image_path(image_id)) as image:
            np.asarray(image.convert("RGB"))
        with Image.open(layout.mask_path(image_id)) as mask:
            np.asarray(mask)

    ids = [image_id for ids in layout.splits().values() for image_id in ids]
    with ThreadPoolExecutor(min(MAX_WORKERS, cores())) as pool:
        list(pool.map(decode, ids))


def timed(work: Callable[[Layout], object], layout: Layout) -> float:
    """Seconds that one pass takes."""
    start = time.perf_counter()
    work(layout)
    return time.perf_counter() - start


def main() -> None:
    """Generate a data set, measure, print."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "voc"
        generate(root, train=IMAGES - 40, val=40, seed=0, size=SIZE)
        layout = open_layout(root)
        timed(bare, layout), timed(scan, layout)  # Files into the page cache.
        turns = [(timed(bare, layout), timed(scan, layout)) for _ in range(TURNS)]
    decode, facts = (statistics.median(side) for side in zip(*turns, strict=True))
    print(
        f"{IMAGES} pairs of {SIZE[0]} x {SIZE[1]}, {min(MAX_WORKERS, cores())} threads: "
        f"bare decode {IMAGES / decode:.0f}/s, scan {IMAGES / facts:.0f}/s, "
        f"ratio {decode / facts:.2f} (at least 0.8 is wanted)"
    )


if __name__ == "__main__":
    main()
