"""Masks over photographs, and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.params.colors import VOID_DARK, VOID_LIGHT
from segops.report.augmentation import GAP, HEAD, MARGIN, PANEL, TITLE, ContactRow
from segops.report.augmentation import write_contact_sheet as write_sheet
from segops.report.overlay import (
    colours,
    css_colour,
    error_kinds,
    overlay,
    present,
)
from segops.runtime.classes import Classes, palette

IMAGE = np.full((40, 60, 3), (10, 200, 90), dtype=np.uint8)


def mask_with(label: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 20:50] = label
    return mask


def test_background_stays_and_a_class_is_tinted_by_alpha() -> None:
    shown = overlay(IMAGE, mask_with(15), alpha=0.5)
    assert (shown[:10] == IMAGE[:10]).all()
    expected = (IMAGE[20, 35].astype(int) + palette()[15]) // 2
    assert shown[20, 35].tolist() == expected.tolist()
    assert (overlay(IMAGE, mask_with(15), alpha=1)[20, 35] == palette()[15]).all()


def test_a_class_has_a_light_outline_beside_background() -> None:
    shown = overlay(IMAGE, mask_with(15), alpha=0)
    border = palette()[15] // 2 + 127
    assert (shown[10, 20:50] == border).all()
    assert (shown[11:29, 21:49] == IMAGE[0, 0]).all()


def test_void_is_light_where_thin_and_striped_where_it_is_an_area() -> None:
    thin = np.zeros((40, 60), dtype=np.uint8)
    thin[10:13] = 255
    assert (colours(thin)[10:13] == VOID_LIGHT).all()
    area = colours(mask_with(255))[15:25, 25:45].reshape(-1, 3)
    assert {tuple(pixel) for pixel in area.tolist()} == {VOID_LIGHT, VOID_DARK}
    whole = colours(np.full((20, 20), 255, dtype=np.uint8))
    assert (whole[0] == VOID_DARK).all(axis=1).any()


def test_the_inputs_are_not_written_to() -> None:
    image, mask = IMAGE.copy(), mask_with(255)
    overlay(image, mask)
    assert (image == IMAGE).all()
    assert (mask == mask_with(255)).all()


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        overlay(IMAGE, np.zeros((60, 40), dtype=np.uint8))


def test_present_ids_and_their_colours() -> None:
    assert present([mask_with(3), mask_with(255)]) == [0, 3, 255]
    assert present([]) == []
    assert css_colour(1) == "#800000"


def row(versions: int, size: tuple[int, int] = (40, 60)) -> ContactRow:
    image = np.full((*size, 3), (200, 30, 30), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, : size[1] // 2] = 255
    return ContactRow("2007_000032", image, mask, [(image, mask)] * versions)


def test_the_contact_sheet_has_a_column_for_every_version(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_sheet(path, [row(2), row(4, (64, 32))])
    with Image.open(path) as sheet:
        assert sheet.width == 2 * MARGIN + 6 * (PANEL + GAP) - GAP
        pixels = np.asarray(sheet)
    top, middle = HEAD + TITLE, PANEL // 2
    image = pixels[top + middle, MARGIN + middle]
    assert image.tolist() == [200, 30, 30]
    # Void fills the left half of the mask: stripes there, black background on the right.
    mask = pixels[top + middle, MARGIN + PANEL + GAP : MARGIN + 2 * PANEL + GAP]
    assert mask[: middle - 8].min() >= 90  # Resampling overshoots a little.
    assert mask[: middle - 8].std() > 20
    assert mask[middle + 8 :].max() < 10
    # The first row has no third and no fourth version.
    empty = pixels[top + middle, MARGIN + 4 * (PANEL + GAP) + middle]
    assert empty.tolist() == [255, 255, 255]


def test_the_same_rows_give_the_same_sheet(tmp_path: Path) -> None:
    write_sheet(tmp_path / "one.png", [row(1)])
    write_sheet(tmp_path / "two.png", [row(1)])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_sheet_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        write_sheet(tmp_path / "sheet.png", [])
    assert not (tmp_path / "sheet.png").exists()


def test_each_class_is_painted_where_none_is_background() -> None:
    classes = Classes(("sky", "road"), None, ((0, 0, 200), (90, 60, 30)))
    mask = mask_with(1)
    shown = overlay(IMAGE, mask, classes, alpha=1)
    assert shown[0, 0].tolist() == [0, 0, 200]
    assert shown[20, 35].tolist() == [90, 60, 30]
    # The outline runs on both sides of a contour.
    assert shown[9, 35].tolist() == [127, 127, 227]
    assert shown[10, 35].tolist() == [172, 157, 142]
    road = overlay(IMAGE, mask, Classes(classes.names, 1, classes.colors), alpha=1)
    assert (road[11:29, 21:49] == IMAGE[0, 0]).all()
    assert road[0, 0].tolist() == [0, 0, 200]


def test_kinds_of_error_name_the_background() -> None:
    assert [kind.name for kind in error_kinds(None)] == ["confusion", "boundary"]
    missed, false_alarm, *_ = error_kinds("sky")
    assert missed.meaning == "a class is there, and sky was predicted"
    assert false_alarm.meaning == "sky is there, and a class was predicted"
