"""Which images a model was trained on, by their files and by their pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from segops.evaluate.bootstrap import COLUMNS, without_images
from segops.predict.seen import seen_images

OLD = Path(__file__).parents[2] / "bundles/format1/model.json"
MODEL = {"training_images": {"a": "file-a"}, "training_pixels": {"a": "pixels-a"}}
IMAGES = [("file-a", "pixels-a"), ("file-b", "pixels-a"), ("file-c", "pixels-c"), ("file-d", None)]
"""An image, one with the same pixels as PNG, another, and one not known."""


def test_the_same_pixels_under_other_bytes_were_seen() -> None:
    seen = seen_images(MODEL, IMAGES)
    assert seen == {"file-a", "file-b"}
    table = pd.DataFrame([(file, file, 0, 1, 2, 3) for file, _ in IMAGES], columns=list(COLUMNS))
    assert list(without_images(table, seen)["image_id"]) == ["file-c", "file-d"]


def test_an_old_bundle_and_old_data_tell_files_only() -> None:
    old = json.loads(OLD.read_text())
    assert seen_images(old, IMAGES) == set(old["training_images"].values())
    assert seen_images(MODEL) == {"file-a"}
