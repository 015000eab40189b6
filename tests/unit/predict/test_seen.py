"""Which images a model was trained on, by their files and by their pixels."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from segops.evaluate.bootstrap import COLUMNS, without_images
from segops.predict.seen import of_counts, seen_images
from segops.release.pairing import digest

OLD = Path(__file__).parents[2] / "bundles/format1/model.json"
MODEL = {"training_images": {"a": "file-a"}, "training_pixels": {"a": "pixels-a"}}


def counts() -> pd.DataFrame:
    """Of an image, of one with the same pixels as PNG, of another, and of one not known."""
    rows = [
        ("one", "file-a", 0, 1, 2, 3, "pixels-a"),
        ("png", "file-b", 0, 1, 2, 3, "pixels-a"),
        ("png", "file-b", 1, 1, 2, 3, "pixels-a"),
        ("other", "file-c", 0, 1, 2, 3, "pixels-c"),
        ("unknown", "file-d", 0, 1, 2, 3, None),
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "image_pixels"])


def test_the_same_pixels_under_other_bytes_were_seen() -> None:
    table = counts()
    seen = seen_images(MODEL, of_counts(table))
    assert seen == {"file-a", "file-b"}
    assert list(without_images(table, seen)["image_id"]) == ["other", "unknown"]


def test_an_old_bundle_and_old_counts_tell_files_only() -> None:
    old = json.loads(OLD.read_text())
    assert seen_images(old, of_counts(counts())) == set(old["training_images"].values())
    assert seen_images(MODEL, of_counts(counts()[list(COLUMNS)])) == {"file-a"}


def test_the_hashes_of_pixels_are_not_in_the_digest_of_counts() -> None:
    assert digest(counts()) == digest(counts()[list(COLUMNS)])
