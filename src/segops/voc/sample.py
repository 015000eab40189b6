"""The generated sample: a small data set in VOC layout that a small network can learn.

Eight of VOC's classes as shaded objects in textured scenes. Shape and structure tell the classes
apart; scale, colour and light are drawn at random, so that colour alone tells next to nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from segops.runtime.masks import write_mask

from ..files import atomic_directory
from .layout import IMAGES, LISTS, MASKS, Layout
from .sample_objects import KINDS
from .sample_scene import Scene, draw_scene

CLASS_IDS: tuple[int, ...] = tuple(kind.class_id for kind in KINDS)
"""The VOC ids that the sample's masks hold, beside 0 (background) and 255 (void)."""

JPEG_QUALITY = 85


class _Settings(TypedDict):
    train: int
    val: int
    seed: int


SHIPPED: _Settings = {"train": 240, "val": 80, "seed": 2026}
"""Arguments of :func:`generate` that made the shipped sample."""

SHIPPED_MD5 = "bec837c91caa55190073cbe8a21d5782.dir"
"""The hash by which DVC names the shipped sample's directory, where Pillow is the pinned one."""


def scene(seed: int, split: int, index: int, size: tuple[int, int] = (160, 128)) -> Scene:
    """Draw the `index`-th scene of a split; the same arguments give the same scene.

    Args:
        seed: Of the data set.
        split: 0 for train, 1 for val.
        index: Place in the split. Eight scenes in a row hold all eight classes.
        size: Usual width and height in pixels; some scenes are narrower, some upright.
    """
    rng = np.random.default_rng((seed, split, index))
    width, height = size
    sizes = ((width, height), (width, height), (width - width // 10, height), (height, width))
    return draw_scene(rng, sizes[int(rng.integers(0, 4))], KINDS[index % len(KINDS)])


def generate(
    target: Path, train: int, val: int, seed: int, size: tuple[int, int] = (160, 128)
) -> None:
    """Write a data set in VOC layout to `target`; the same arguments give the same bytes.

    Args:
        target: Directory that takes the data set's place, whole or not at all.
        train: Images in the train split, at least 1.
        val: Images in the val split, at least 1.
        seed: Of all randomness, at least 0.
        size: Usual width and height in pixels; some images are narrower, some upright.

    Raises:
        ValueError: `train` or `val` is less than 1.
    """
    if min(train, val) < 1:
        raise ValueError(f"expected at least one image in each split, got {train} and {val}")
    with atomic_directory(target) as root:
        for name in (IMAGES, MASKS, LISTS):
            (root / name).mkdir(parents=True)
        layout = Layout(root)
        number = 0
        for split, (name, count) in enumerate((("train", train), ("val", val))):
            ids = []
            for index in range(count):
                number += 1
                image_id = f"2026_{number:06d}"
                drawn = scene(seed, split, index, size)
                Image.fromarray(drawn.image).save(
                    layout.image_path(image_id), quality=JPEG_QUALITY, optimize=True
                )
                write_mask(layout.mask_path(image_id), drawn.mask())
                ids.append(image_id)
            layout.list_path(name).write_text("\n".join(ids) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a sample: ``python -m segops.voc.sample TARGET``; as it is shipped, if not told else."""
    parser = argparse.ArgumentParser(prog="python -m segops.voc.sample", description=__doc__)
    parser.add_argument("target", type=Path, help="directory that the data set takes the place of")
    for name, value in (*SHIPPED.items(), ("width", 160), ("height", 128)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    given = parser.parse_args(arguments)
    generate(given.target, given.train, given.val, given.seed, (given.width, given.height))


if __name__ == "__main__":
    main()
