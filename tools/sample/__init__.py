"""The sample: a small generated data set in VOC layout that a small network can learn.

Eight of VOC's classes as shaded objects in textured scenes. Shape and structure tell the classes
apart; scale, colour and light are drawn at random, so that colour alone tells next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from segops.files import atomic_directory
from segops.runtime.masks import write_mask
from segops.voc.layout import IMAGES, MASKS, Layout

from .kinds import KINDS
from .scene import Scene, draw_scene

CLASS_IDS = tuple(kind.class_id for kind in KINDS)
"""The VOC ids in the sample's masks, beside 0 (background) and 255 (void)."""

JPEG_QUALITY = 85


class Settings(TypedDict):
    """Arguments of :func:`generate`."""

    train: int
    val: int
    seed: int


SHIPPED: Settings = {"train": 240, "val": 80, "seed": 2026}
"""The arguments that made the shipped sample."""

SHIPPED_MD5 = "bec837c91caa55190073cbe8a21d5782.dir"
"""DVC's hash of the shipped sample's directory, as the pinned Pillow writes it."""


def scene(seed: int, split: int, index: int, size: tuple[int, int] = (160, 128)) -> Scene:
    """Draw the `index`-th scene of a split (0 for train, 1 for val), as in :func:`generate`.

    Eight scenes in a row hold all eight classes.
    """
    rng = np.random.default_rng((seed, split, index))
    width, height = size
    sizes = ((width, height), (width, height), (width - width // 10, height), (height, width))
    return draw_scene(rng, sizes[int(rng.integers(0, 4))], KINDS[index % len(KINDS)])


def generate(
    target: Path, train: int, val: int, seed: int, size: tuple[int, int] = (160, 128)
) -> None:
    """Write a data set in VOC layout to `target`, whole or not at all.

    The same arguments give the same bytes. `size` is the usual width and height in pixels; some
    images are narrower, some upright.

    Raises:
        ValueError: `train` or `val` is less than 1.
    """
    if min(train, val) < 1:
        raise ValueError(f"expected at least one image in each split, got {train} and {val}")
    with atomic_directory(target) as root:
        for name in (IMAGES, MASKS):
            (root / name).mkdir()
        layout = Layout(root)
        splits = (("train", 1, train), ("val", 1 + train, val))
        for split, (name, first, count) in enumerate(splits):
            ids = [f"2026_{first + index:06d}" for index in range(count)]
            for index, image_id in enumerate(ids):
                drawn = scene(seed, split, index, size)
                photograph = Image.fromarray(drawn.image)
                path = layout.image_path(image_id)
                photograph.save(path, quality=JPEG_QUALITY, optimize=True)
                write_mask(layout.mask_path(image_id), drawn.mask())
            layout.write_list(name, ids)
