"""The table and the page of a label audit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from segops.label_check.table import COLUMNS, write_labels_table
from segops.quality.label_scores import Segment
from segops.report.labels_page import LabelPicture, LabelRow, write_labels_page
from segops.runtime.classes import Classes
from tests.support.browser import measured, needs_browser, opened

NAMES = ("background", "=1+1", "<script>document.title='owned'</script>")
CLASSES = Classes(NAMES, None, ((1, 2, 3), (250, 120, 0), (0, 120, 250)))
SEGMENT = Segment(0.87654321, 1, 2, (4, 5, 20, 15), 160)
ROWS = (
    LabelRow("=cmd", "train", 0.123456789, (SEGMENT,)),
    LabelRow("<img src=x onerror=document.title='owned'>", "val", 0.9, ()),
    LabelRow("all void", "val", None, ()),
)


def pictures() -> list[LabelPicture]:
    given = np.zeros((30, 40), np.uint8)
    given[5:15, 4:20] = 1
    predicted = np.where(given == 1, np.uint8(2), given)
    image = np.full((30, 40, 3), 120, np.uint8)
    shown = [(SEGMENT, np.ones((10, 16), np.bool_))]
    return [
        LabelPicture(row.image_id, image, given, predicted, shown if row.segments else [])
        for row in ROWS
    ]


def write(tmp_path: Path, *, with_pictures: bool = True) -> Path:
    page = tmp_path / "labels.html"
    shown = pictures() if with_pictures else []
    write_labels_page(page, ROWS, shown, CLASSES, suspects=3, left_out=2, by="models:/segops/3")
    return page


def test_the_table_has_a_row_for_each_segment_and_no_formula(tmp_path: Path) -> None:
    write_labels_table(tmp_path / "labels.csv", ROWS, NAMES)
    with (tmp_path / "labels.csv").open(newline="") as file:
        head, first, second, third = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert first == [
        "./=cmd", "train", "1", "0.123457", "0.876543", "class =1+1", NAMES[2],
        "4", "5", "20", "15", "160",
    ]  # fmt: skip
    assert second == [ROWS[1].image_id, "val", "2", "0.9", *[""] * 8]
    assert third == ["all void", "val", "3", "", *[""] * 8]


@pytest.mark.parametrize("with_pictures", [True, False])
def test_the_page_says_what_contradicts(tmp_path: Path, with_pictures: bool) -> None:
    text = write(tmp_path, with_pictures=with_pictures).read_text()
    assert "&lt;script&gt;document.title" in text
    assert "<script>document" not in text
    assert "<img src=x" not in text
    assert "0.88" in text
    assert "160 pixels at x 4 to 20, y 5 to 15" in text
    assert text.count("data:image/jpeg") == (9 if with_pictures else 0)
    assert "models:/segops/3" in text
    assert "http" not in text.replace("http-equiv", "")


@needs_browser
def test_the_page_fits_a_telephone_and_runs_no_name(tmp_path: Path) -> None:
    page = write(tmp_path)
    assert "<title>Label audit · segops</title>" in opened(page)
    script = "const page = document.scrollingElement; return [page.scrollWidth, innerWidth];"
    wide, screen = measured(page, 420, script)
    assert wide <= screen == 420


def test_the_legend_has_the_colours_of_the_classes(tmp_path: Path) -> None:
    text = write(tmp_path).read_text()
    for color in CLASSES.colors:
        assert f"background:#{bytes(color).hex()}" in text
