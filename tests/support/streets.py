"""A small data set of eleven classes of which none is background, as CamVid's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
    "bicyclist",
)
UNLABELLED = 11
"""The id in the masks that is no class."""
PARAMS = f"{{classes: [{', '.join(CLASSES)}], ignore: [{UNLABELLED}]}}"
"""Section `data` that reads these masks."""


def street(seed: int, height: int = 60, width: int = 80) -> tuple[NDArray[np.uint8], ...]:
    """A photograph, uint8 (H, W, 3), and its mask, uint8 (H, W), of ids 0 to 11."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 :, : width // 3] = 1
    mask[height // 3 :, 2 * width // 3 :] = 5
    mask[height // 2 :] = 3
    mask[height // 2 : 7 * height // 12] = 4
    for label in (2, 6, 7, 8, 9, 10, UNLABELLED):
        high, wide = (max(3, side // int(random.integers(5, 9))) for side in (height, width))
        top, left = int(random.integers(0, height - high)), int(random.integers(0, width - wide))
        mask[top : top + high, left : left + wide] = label
    shades = np.random.default_rng(7).integers(40, 216, (UNLABELLED + 1, 3))
    image = shades[mask] + random.integers(-25, 26, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_streets(root: Path, train: int = 6, val: int = 4, **size: int) -> dict[str, list[str]]:
    """Write them in VOC layout, masks as greyscale PNGs; return the ids by split."""
    names = [f"street{number:02}" for number in range(train + val)]
    splits = {"train": names[:train], "val": names[train:]}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(names):
        image, mask = street(seed, **size)
        Image.fromarray(image).save(root / f"JPEGImages/{name}.png")
        Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
    for split, ids in splits.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    return splits
