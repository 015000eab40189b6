"""How the data of two versions differ, in the words of a model card."""

from __future__ import annotations

import pandas as pd

from segops.evaluate.bootstrap import COLUMNS
from segops.release.data_since import words

OLD = {"images": {"train": 9, "val": 3}, "classes": ["sky", "car", "cat"]}


def counts(*rows: tuple[str, str, int, int]) -> pd.DataFrame:
    table = [(image, sha, label, 0, 0, truth) for image, sha, label, truth in rows]
    return pd.DataFrame(table, columns=list(COLUMNS))


BEFORE = counts(("a", "1", 0, 90), ("a", "1", 1, 10), ("b", "2", 0, 100), ("c", "3", 2, 0))


def test_images_labels_and_pixels_are_told() -> None:
    after = counts(("a", "1", 0, 70), ("a", "1", 1, 30), ("b", "other", 0, 100), ("d", "4", 0, 0))
    new = OLD | {"images": {"train": 8, "val": 3}}
    assert words(OLD, new, (BEFORE, after)) == (
        "9 → 8 images in train; 1 image of val added; 1 image of val removed; "
        "1 image of val with another photograph; 1 image of val with other labels; "
        "true pixels of val: sky 95.0\u202f% → 85.0\u202f%, car 5.0\u202f% → 15.0\u202f%"
    )


def test_a_prediction_alone_is_no_other_label() -> None:
    after = pd.concat([BEFORE, counts(("b", "2", 2, 0))], ignore_index=True)
    assert words(OLD, OLD, (BEFORE, after)) == "other files"


def test_without_counts_and_with_other_classes_less_is_told() -> None:
    new = {"images": {"train": 9, "val": 3, "test": 2}, "classes": ["sky", "car"]}
    assert words(OLD, new, None) == "0 → 2 images in test; other classes"
    assert words(OLD, new, (BEFORE, BEFORE)) == "0 → 2 images in test; other classes"
