"""Default colours of classes that are not VOC's."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.params.colors import BLACK, NORMAL, default_colors, lab
from segops.runtime.classes import VOC_CLASSES, palette

# Table 1 of Machado et al. 2009, deuteranomaly of severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
     [-0.011820, 0.042940, 0.968881]]
)  # fmt: skip


def smallest_distance(colors: NDArray[np.uint8]) -> float:
    """In CIELAB, as the deuteranope sees them."""
    points = lab(colors, DEUTERANOPIA)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(distances[~np.eye(len(points), dtype=bool)].min())


def own(number: int, background: int | None = None) -> NDArray[np.uint8]:
    names = [f"class {label}" for label in range(number)]
    return np.array(default_colors(names, background), np.uint8)


def test_twelve_classes_can_be_told_apart_without_green_cones() -> None:
    voc = smallest_distance(palette()[:12])
    assert voc < 5
    assert smallest_distance(own(12)) > 20
    assert smallest_distance(own(12, background=3)) > 20


def test_lab_is_that_of_opencv() -> None:
    colors = own(254)
    expected = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    np.testing.assert_allclose(lab(colors, NORMAL), expected, atol=0.4)


def test_there_are_255_colours_and_they_do_not_depend_on_the_names() -> None:
    colors = own(255)
    assert len(np.unique(colors, axis=0)) == 255
    assert colors[:4].tolist() == [[0, 0, 255], [255, 221, 17], [102, 153, 255], [153, 102, 0]]
    assert (own(20) == colors[:20]).all()
    assert tuple(own(3, background=1)[1]) == BLACK
    assert (own(3, background=1)[[0, 2]] == colors[:2]).all()


def test_classes_of_voc_have_vocs_colours() -> None:
    assert (np.array(default_colors(VOC_CLASSES, 0)) == palette()[:21]).all()
    assert default_colors(["person", "background"], 1)[0] == tuple(palette()[15].tolist())
