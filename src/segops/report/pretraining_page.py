"""The page of a pretraining: its loss, and what the network restores of some images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.params.pretrain import PretrainParams
from segops.report.html import photograph, render
from segops.report.svg import line
from segops.runtime.bands import false_colour

SIDE = 320
"""Pixels of a picture's longer side."""


Crop = NDArray[np.uint8]
"""A crop of an image, uint8 (h, w, C)."""


def write_pretraining_page(
    path: Path,
    result: Mapping[str, Any],
    params: PretrainParams,
    restored: Iterable[tuple[str, Crop, Crop, Crop]],
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        result: Content of ``pretraining.json``.
        params: Section `pretrain` of ``params.yaml``.
        restored: Of each image to show its id, a crop of it, what the encoder saw of the crop, and
            the restored crop.
    """
    epochs = result["epochs"]
    points = [(row["epoch"], row["train_loss"]) for row in epochs]
    shown = [
        {
            "name": image_id,
            "panels": {
                text: photograph(false_colour(pixels), SIDE)
                for text, pixels in (
                    ("image", crop),
                    ("what the encoder sees", seen),
                    ("restored", whole),
                )
            },
        }
        for image_id, crop, seen, whole in restored
    ]
    context = {
        "result": result,
        "params": params,
        "curve": line(points, "Loss", "train"),
        "first": points[0][1],
        "last": points[-1][1],
        "shown": shown,
        "is_masked": result["method"] == "MaskedAutoencoder",
    }
    write_text(path, render("pretraining.html", **context))
