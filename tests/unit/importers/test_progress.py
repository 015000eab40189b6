"""Formats say how far their reading is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from segops.importers.write import read_source
from tests.unit.importers.conftest import greyscale, photograph, small_coco, write_json


def test_images_that_are_read_are_counted(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []

    def track(items: Iterable[object], label: str) -> Iterator[object]:
        every = [*items]
        shown.append((label, len(every)))
        return iter(every)

    for form in ("folder", "coco", "labelme"):
        monkeypatch.setattr(f"segops.importers.{form}.track", track)
    for name in "abc":
        photograph(source / f"images/{name}.png")
        greyscale(source / f"masks/{name}.png", np.zeros((30, 40), np.uint8))
    read_source("folder", source)
    file = write_json(source / "instances.json", small_coco("a.png", "b.png", "c.png"))
    read_source("coco", file)
    for name in "abc":
        write_json(source / f"images/{name}.json", {"imagePath": f"{name}.png", "shapes": []})
    read_source("labelme", source / "images")
    assert shown == [
        (f"reading {source}", 3), (f"reading {file}", 3), (f"reading {source / 'images'}", 3),
    ]  # fmt: skip
