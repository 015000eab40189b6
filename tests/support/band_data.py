"""A generated data set of four bands whose fourth alone says what is where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segops.runtime.masks import encode_mask
from segops.voc.layout import Layout
from segops.voc.reading import Bands, Reading

CLASSES = ["ground", "crop"]
SIDE = 64
IN_ONE_FILE, IN_A_DIRECTORY = Bands(4), Bands(directories=("Depth",))


def write_band_data(root: Path, bands: Bands, train: int = 12, val: int = 4) -> Layout:
    """Write the data set: four bands in each PNG, or RGB and a directory of the fourth.

    Red, green and blue are noise; the fourth band is bright on one side of a line and dark on the
    other, and so is the mask.
    """
    layout = Layout(root, Reading(bands=bands))
    for part in ("JPEGImages", "SegmentationClass", *bands.directories):
        (root / part).mkdir(parents=True)
    for split, count, first in (("train", train, 0), ("val", val, 500)):
        ids = [f"{split}{number}" for number in range(count)]
        layout.write_list(split, ids)
        for number, image_id in enumerate(ids):
            rng = np.random.default_rng(first + number)
            pixels = rng.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, : 8 * int(rng.integers(2, 7))] = 1
            mask = mask if rng.random() < 0.5 else 1 - mask
            mask = mask if rng.random() < 0.5 else np.ascontiguousarray(mask.T)
            pixels[..., 3] = rng.integers(0, 60, mask.shape) + 150 * mask
            photograph = root / f"JPEGImages/{image_id}.png"
            if bands == IN_ONE_FILE:
                Image.fromarray(pixels, "RGBA").save(photograph)
            else:
                Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(photograph)
                depth = np.ascontiguousarray(pixels[..., 3])
                Image.fromarray(depth).save(root / f"{bands.directories[0]}/{image_id}.png")
            layout.mask_path(image_id).write_bytes(encode_mask(mask))
    return layout


def band_params(bands: Bands) -> dict[str, Any]:
    """Parameters of a small training on it."""
    return {
        "data": {
            "classes": CLASSES,
            "channels": bands.channels,
            "bands": list(bands.directories),
        },
        "validate": {"min_train_images": 1, "min_val_images": 1, "required_classes": CLASSES},
        "augment": {"crop": [64, 64]},
        "model": {"architecture": "plain_cnn", "options": {"width": 16}},
        "train": {"epochs": 20, "batch_size": 4, "lr": 0.005, "device": "cpu"},
    }
