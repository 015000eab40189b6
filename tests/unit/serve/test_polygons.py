"""Outlines of regions."""

from __future__ import annotations

import numpy as np
import pytest

from segops.runtime.classes import Classes
from segops.serve import polygons
from segops.serve.errors import RequestError

CLASSES = Classes(("background", "road", "car"))


def test_a_region_with_a_hole() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:9, 1:11] = 1
    mask[4:6, 4:8] = 2
    road, car = polygons.polygons(mask, CLASSES)
    assert (road["id"], road["name"]) == (1, "road")
    assert sorted(map(tuple, road["points"])) == [(1, 2), (1, 8), (10, 2), (10, 8)]
    assert len(road["holes"]) == 1
    assert (car["id"], sorted(map(tuple, car["points"])), car["holes"]) == (
        2,
        [(4, 4), (4, 5), (7, 4), (7, 5)],
        [],
    )


def test_a_class_that_is_no_background_is_told() -> None:
    mask = np.zeros((4, 4), np.uint8)
    assert polygons.polygons(mask, CLASSES) == []
    (one,) = polygons.polygons(mask, Classes(CLASSES.names, background=None))
    assert one["name"] == "background"


def test_a_mask_of_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "MOST_POINTS", 100)
    mask = np.random.default_rng(0).integers(0, 3, (60, 60), np.uint8)
    with pytest.raises(RequestError) as caught:
        polygons.polygons(mask, CLASSES)
    assert caught.value.status == 413
