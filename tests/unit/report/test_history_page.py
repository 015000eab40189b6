"""The page with the history of a model: its chart, its rows, hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from segops.metrics.iou import Difference
from segops.report.history_page import (
    SHOWN,
    Change,
    HistoryPage,
    Moment,
    VersionRow,
    chart,
    write_history_page,
)
from tests.unit.report.test_evaluation import Outline

HOSTILE = "</script><img src=x onerror=alert(1)>"


def row_of(number: int, **changes: object) -> VersionRow:
    """A version that was rejected, against version 1."""
    row = VersionRow(
        number=str(number),
        registered=f"2026-11-{number:02d}T01:26+00:00",
        by="schedule nightly",
        state="rejected",
        is_gone=False,
        miou=0.5,
        low=0.45,
        high=0.55,
        val="v",
        weights=f"{number:064x}",
        before="1",
        compared="1",
        difference=Difference(-0.1, -0.14, -0.06),
        images=80,
        changes=(Change("parameters", "train.lr", "0.01 → 0.02"),),
        moments=(Moment("2026-11-29T01:26:00+00:00", "rejected", "nightly", "A loss."),),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


FIRST = row_of(
    1, state="released", before=None, compared=None, difference=None, miou=0.6, low=0.55, high=0.65
)


def write(path: Path, *rows: VersionRow, model: str = "segops") -> str:
    write_history_page(path, HistoryPage(model, rows, "ledger", "2026-11-30 03:00 UTC"))
    return path.read_text()


def test_the_chart_places_each_score_and_joins_the_releases() -> None:
    champion = row_of(3, state="champion", miou=0.8, low=0.75, high=0.85, val="other")
    svg = str(chart([FIRST, row_of(2), champion]))
    points = [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    assert len(points) == 3
    xs, ys = zip(*points, strict=True)
    assert xs[1] - xs[0] == xs[2] - xs[1] > 0
    scale = (ys[0] - ys[2]) / (0.8 - 0.6)  # y grows downwards
    assert abs((ys[1] - ys[0]) - scale * (0.6 - 0.5)) < 0.2
    joined = re.search(r'class="releases" points="([^"]*)"', svg)
    assert joined is not None
    assert joined[1] == f"{xs[0]},{ys[0]} {xs[2]},{ys[2]}"
    (line,) = re.findall(r'class="other-val" x1="([\d.]+)"', svg)
    assert xs[1] < float(line) < xs[2]
    assert 'aria-label="version 3, champion: mIoU 0.800 (0.750 to 0.850)"' in svg
    assert str(chart([replace(FIRST, miou=None)])) == ""


def test_a_version_alone_and_one_without_figures_are_shown(tmp_path: Path) -> None:
    bare = row_of(
        2, registered="", by="", state="not decided", is_gone=True, miou=None, low=None, high=None,
        weights="", difference=None, compared=None, changes=(), moments=(),
    )  # fmt: skip
    page = write(tmp_path / "page.html", bare)
    assert "<svg" not in page
    assert "None" not in page
    assert "gone from the registry" in page
    page = write(tmp_path / "page.html", FIRST)
    assert "the first version" in page
    assert page.count("<circle") == 1
    assert Outline(page).open == []


def test_many_changes_fold(tmp_path: Path) -> None:
    changes = tuple(Change("parameters", f"key{n}", "1 → 2") for n in range(SHOWN + 3))
    page = write(tmp_path / "page.html", FIRST, row_of(2, changes=changes))
    assert "<summary>3 more</summary>" in page
    assert all(page.count(f"<code>{one.name}</code>") == 1 for one in changes)
    assert "−0.100" in page
    assert "−0.140 to −0.060" in page
    assert 'class="whisker worse"' in page


def test_names_are_escaped(tmp_path: Path) -> None:
    hostile = row_of(
        2, by=HOSTILE, state=HOSTILE, changes=(Change("parameters", HOSTILE, HOSTILE),),
        moments=(Moment("2026", HOSTILE, HOSTILE, HOSTILE),),
    )  # fmt: skip
    page = write(tmp_path / "page.html", FIRST, hostile, model=HOSTILE)
    assert "<img" not in page
    assert page.count("</script>") == 1
    assert page.count("&lt;img") == 11
    assert Outline(page).open == []


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.html", FIRST, row_of(2)) == write(
        tmp_path / "b.html", FIRST, row_of(2)
    )
