"""The pages on a narrow screen: nothing is cut off, and what is wide scrolls and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segops.metrics.iou import Difference
from segops.quality.checks import DataCheck, Finding, Validation
from segops.quality.data_changes import compare
from segops.quality.facts import scan
from segops.report.diff_page import write_diff_page
from segops.report.evaluation_page import write_evaluation_page
from segops.report.history_page import Change, HistoryPage, write_history_page
from segops.report.validation_page import write_validation_page
from segops.runtime.classes import VOC, VOC_CLASSES
from segops.voc.layout import open_layout
from tests.support.browser import measured, needs_browser
from tests.support.evaluations import (
    evaluation_of,
    image_rows_of,
    opponent_of,
    pictures_of,
    places_of,
)
from tests.unit.quality.test_data_changes import mask, version
from tests.unit.report.test_history_page import FIRST, row_of

pytestmark = needs_browser

WIDTHS = (420, 1200)
LONG = "/a/rather/long/path/to/a/bundle/without/a/single/space/models/segmenter"

# Of every table and wide drawing: whether its last column comes into sight by scrolling the box
# that it is in, and whether a box that hides something says so.
MEASURE = """
const wide = [];
for (const one of document.querySelectorAll("table, svg.heat, svg.history")) {
  if (!one.getClientRects().length) continue;
  const row = one.tHead ? one.tHead.rows[0] : null;
  const last = row && row.cells.length ? row.cells[row.cells.length - 1] : one;
  const box = one.closest(".scroll");
  const hidden = box ? box.scrollWidth - box.clientWidth : 0;
  const told = box ? getComputedStyle(box, "::before").content : "none";
  const edge = (box || document.documentElement).getBoundingClientRect().right;
  if (box) box.scrollLeft = box.scrollWidth;
  wide.push({
    name: one.className.baseVal || one.className || "table",
    outside: Math.round(last.getBoundingClientRect().right - Math.min(edge, innerWidth)),
    hides: hidden > 1,
    told: told.includes("Scroll sideways"),
  });
}
const page = document.scrollingElement;
return {width: innerWidth, scrolls: page.scrollWidth, wide};
"""


def full(name: str | None = None) -> Any:
    """An evaluation of the 21 classes with a figure in every cell, or an opponent of that name."""
    evaluation = evaluation_of(VOC_CLASSES)
    for figures in evaluation["classes"].values():
        figures |= dict.fromkeys(figures, 0.5) | {"truth_pixels": 12345678, "hausdorff95": 123.4}
    evaluation["calibration"]["bins"] = [
        {"low": i / 15, "high": (i + 1) / 15, "pixels": 123456789, "confidence": 0.5,
         "accuracy": 0.4} for i in range(15)
    ]  # fmt: skip
    if name is None:
        return evaluation
    differences = dict.fromkeys(VOC_CLASSES, Difference(0.02, -0.03, 0.08))
    return replace(opponent_of(name), evaluation=evaluation, classes=differences)


def speed_of(name: str) -> dict[str, Any]:
    """Speed and memory of a large model on a graphics card."""
    return {
        "name": name, "milliseconds_p50": 12345.6, "milliseconds_p95": 23456.7,
        "images_per_second": 1234.5, "peak_mib": 123456.0, "device_peak_mib": 81234.0,
        "parameters": 304_368_640, "multiply_adds": 1_234_567_890_123, "mib": 1161.2,
        "device": "cuda:0", "threads": 16, "size": [375, 500],
    }  # fmt: skip


def check(page: Path, width: int, tables: set[str], state: str = "") -> list[str]:
    """Names of what hides a part of itself, after all else is asserted."""
    found = measured(page, width, MEASURE, state)
    assert found["width"] == width
    assert found["scrolls"] <= width, found
    assert tables <= {one["name"] for one in found["wide"]}
    for one in found["wide"]:
        assert one["outside"] <= 1, one
        assert one["hides"] is one["told"], one
    return [one["name"] for one in found["wide"] if one["hides"]]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rivals", [(), ("champion, version 3",), ("a", LONG, "run 1 of many")])
def test_the_evaluation_page(width: int, rivals: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "evaluation.html"
    matrix = np.full((21, 21), 100, dtype=np.int64)
    opponents = [full(one) for one in rivals]
    name = LONG if len(rivals) > 1 else "this model"
    write_evaluation_page(
        page,
        full(),
        matrix,
        [replace(one, others=(one.truth,) * len(rivals)) for one in pictures_of(3)],
        None,
        opponents,
        name=name,
        speeds=[speed_of(one) for one in (name, *rivals)],
        images=[replace(one, others=(0.5,) * len(rivals)) for one in image_rows_of(3)],
        places=places_of(),
    )
    tables = {"classes", "kinds", "unions", "slices", "bins", "speeds", "heat"}
    hidden = check(page, width, tables)
    assert {"classes", "heat"} <= set(hidden) or width > 420
    check(page, width, {"classes"}, state="picture=image1&only=cell-1-0")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_validation_page(width: int, tiny_voc: Path, tmp_path: Path) -> None:
    layout = open_layout(tiny_voc)
    (tiny_voc / "JPEGImages" / f"{layout.splits()['train'][0]}.jpg").write_bytes(b"broken")
    page = tmp_path / "validation.html"
    finding = Finding(f"{LONG}.jpg", "is not decodable")
    checks = [
        DataCheck("a rule", "It holds.", True, "It does.", "Nothing."),
        DataCheck(
            "another rule", "It holds.", False, "It does not.", "Mend it.", False, (finding,)
        ),
    ]
    write_validation_page(
        page, Validation(tuple(checks)), scan(layout), layout, VOC,
        pictures=True, max_void_fraction=0.9, data_hash="d" * 64,
    )  # fmt: skip
    check(page, width, {"checks", "table"})


@pytest.mark.parametrize("width", WIDTHS)
def test_the_history(width: int, tmp_path: Path) -> None:
    page = tmp_path / "history.html"
    changes = tuple(Change("parameters", LONG, f"{LONG} → {LONG}") for _ in range(9))
    rows = [FIRST, *(row_of(n, by=LONG, state=LONG, changes=changes) for n in range(2, 40))]
    write_history_page(page, HistoryPage(LONG, tuple(rows), LONG, "2026-11-30 03:00 UTC"))
    check(page, width, {"versions", "history"})


@pytest.mark.parametrize("width", WIDTHS)
def test_changes_of_the_data(tmp_path: Path, width: int) -> None:
    names = ("background", "a_class_with_a_long_name_and_no_space_in_it_at_all", "<b>crack")
    first, more = mask((0, 1, 1), (0, 2, 255)), mask((0, 1, 2), (0, 2, 1))
    long = "an_image_with_a_long_id_" * 5
    old = version(tmp_path / "1", names, train={long: first, "<i>b": first}, val={"c": first})
    new = version(tmp_path / "2", names, train={long: more, "d": first}, val={"<i>b": first})
    page = tmp_path / "page.html"
    write_diff_page(
        page, compare(old, new), old, new, revision="<u>main", commit="c" * 40, pictures=True
    )
    text = page.read_text()
    assert not any(one in text for one in ("<b>crack", "<i>b", "<u>main"))
    assert text.count("data:image/jpeg") == 5
    check(page, width, {"table"})
