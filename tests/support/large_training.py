"""A training on very large images, and the memory that it takes; run as a script, alone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from segops.data.packing import pack
from segops.params.samples import CopyPasteParams
from segops.predict import parts
from segops.runtime.classes import VOC_CLASSES
from segops.train.loop import train
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout, open_layout
from tests.support.training import job_maker

SMALL = 1200, 1200
"""Height and width of an image that is predicted in parts, and has an inner one."""
MARGIN = 32
BLOCK = 100
POLL_SECONDS = 0.005


def write(root: Path, height: int, width: int) -> None:
    """Two packed images to train on and one in val: blocks of a colour and a class."""
    layout = Layout(root / "voc")
    for name in (IMAGES, MASKS, LISTS):
        (layout.root / name).mkdir(parents=True)
    shape = -(-height // BLOCK), -(-width // BLOCK), 4
    blocks = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    pixels = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    Image.fromarray(pixels[..., :3]).save(layout.image_path("a"))
    Image.fromarray(pixels[..., 3] % 21).save(layout.mask_path("a"), compress_level=1)
    for image_id in "bc":
        os.link(layout.image_path("a"), layout.image_path(image_id))
        os.link(layout.mask_path("a"), layout.mask_path(image_id))
    layout.list_path("train").write_text("a\nb\n")
    layout.list_path("val").write_text("c\n")
    pack(open_layout(layout.root), root / "packed", VOC_CLASSES)


@contextmanager
def private_memory() -> Iterator[list[int]]:
    """Collect how many private bytes this process holds, again and again."""
    found, ended = [], threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            lines = Path("/proc/self/status").read_text().splitlines()
            found.append(next(int(one.split()[1]) << 10 for one in lines if "RssAnon" in one))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def main(directory: Path, copies: float, part: int) -> None:
    """Train on the packed images in `small`, then in `large`; print by how many bytes more.

    `copies` is the probability that objects are copied between images; `part` the side of the parts
    in which images are predicted, which take less memory than what is looked for.
    """
    peaks = []
    parts.LARGEST, parts.SIDE, parts.MARGIN = part**2, part, MARGIN
    for name in ("small", "large"):
        make = job_maker(Path(), directory / name)
        pasted = {"copy_paste": CopyPasteParams(p=copies, min_area=1) if copies else None}
        width = {"width": 4}
        job = make(options=width, more=pasted, batch_size=2, sampling="rare_first")
        with private_memory() as held:
            result = train(job)
        assert result.steps == len(result.rows) == 3
        peaks.append(max(held))
    sys.stdout.write(str(peaks[1] - peaks[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
