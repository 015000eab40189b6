"""The tables that the rules of a data set are evaluated on, made of its facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from segops.quality.file_facts import MISSING
from segops.runtime.classes import VOID


def describe_images(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the facts with the columns that the rules need, null where a fact is unknown."""
    images = facts.reset_index(drop=True)
    lost = {kind: images[f"{kind}_error"].eq(MISSING).fillna(False) for kind in ("image", "mask")}
    images["missing"] = None
    images.loc[lost["image"], "missing"] = "image"
    images.loc[lost["mask"], "missing"] = "mask"
    images.loc[lost["image"] & lost["mask"], "missing"] = "image and mask"
    for kind in ("image", "mask"):
        images[f"unreadable_{kind}"] = images[f"{kind}_error"].where(~lost[kind], None)
    images["size"] = _sizes(images["width"], images["height"])
    images["mask_size"] = _sizes(images["mask_width"], images["mask_height"])
    images["highest_label"] = pd.Series(
        [max(labels_in(ids), default=None) for ids in images["label_ids"]], dtype="float64"
    )
    # The same pixels under another id; another rule covers the same id in two lists.
    images["content"] = images["image_pixels"].fillna(images["image_sha256"])
    holders = images.groupby("content")[["split", "image_id"]].transform("nunique")
    images["in_two_splits"] = (holders > 1).all(axis=1)
    return images


def describe_labels(images: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Return a row per image and class in its mask, with columns image_id, split and class."""
    rows = [
        (image_id, split, class_names[label])
        for image_id, split, ids in zip(
            images["image_id"], images["split"], images["label_ids"], strict=True
        )
        for label in labels_in(ids)
        if label < len(class_names)
    ]
    return pd.DataFrame(rows, columns=["image_id", "split", "class"], dtype="str")


def labels_in(ids: Any) -> list[int]:
    """Return the ids of a `label_ids` cell without void; empty if the mask could not be read."""
    return [] if ids is None else [int(label) for label in ids if label != VOID]


def _sizes(width: pd.Series[Any], height: pd.Series[Any]) -> pd.Series[Any]:
    return width.astype("string") + " × " + height.astype("string")
