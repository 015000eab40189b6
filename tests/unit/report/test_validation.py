"""The validation page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.params.file import parse_params
from segops.quality.checks import DataCheck, Finding, Validation
from segops.quality.expectations import check
from segops.quality.facts import empty_facts, scan
from segops.report.validation_page import MAX_OFFENDERS, write_validation_page
from segops.runtime.classes import VOC
from segops.runtime.masks import write_mask
from segops.voc.layout import Layout, open_layout

GOOD = DataCheck("a rule", "It holds.", True, "It does.", "Nothing.")


def bad(*findings: Finding) -> DataCheck:
    return DataCheck(
        "another rule", "It holds.", False, "It does not.", "Mend it.", False, findings
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four images of 48 x 32 pixels, half void, each with one class of its own."""
    root = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for index in range(4):
        mask = np.zeros((32, 48), dtype=np.uint8)
        mask[:16] = 255
        mask[20:, 10:20] = index + 1
        Image.fromarray(np.full((32, 48, 3), 40 * index, dtype=np.uint8)).save(
            root / f"JPEGImages/image{index}.jpg"
        )
        write_mask(root / f"SegmentationClass/image{index}.png", mask)
    (root / "ImageSets/Segmentation/train.txt").write_text("image0\nimage1\nimage2\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("image3\n")
    return open_layout(root)


def write(
    layout: Layout, checks: list[DataCheck], *, pictures: bool = True, empty: bool = False
) -> str:
    path = layout.root.parent / "validation.html"
    write_validation_page(
        path,
        Validation(tuple(checks)),
        empty_facts() if empty else scan(layout),
        layout,
        VOC,
        pictures=pictures,
        max_void_fraction=0.6,
        data_hash="d" * 64,
    )
    return path.read_text()


def test_the_page_stands_alone(layout: Layout) -> None:
    page = write(layout, [GOOD])
    assert not re.search(r"https?:|<script[^>]|@import|url\(", page)
    sources = re.findall(r"(?:src|href)=\"([^\"]{0,12})", page)
    assert len(sources) > 1
    assert all(source.startswith("data:") for source in sources)


def test_good_data_show_samples_and_distributions(layout: Layout) -> None:
    page = write(layout, [GOOD])
    assert "Fit for training" in page
    assert "All 1 checks passed" in page
    assert page.count("data:image/jpeg") == 8
    assert "48 × 32 (4)" in page
    assert "4 of 21" in page
    assert "50.0\u202f%" in page
    assert "bound 60%" in page
    assert "d" * 64 in page


def test_bad_data_show_the_offending_files_and_every_finding(layout: Layout) -> None:
    layout.mask_path("image2").unlink()
    page = write(
        layout,
        [
            GOOD,
            bad(
                Finding("JPEGImages/image1.jpg", "looks odd"),
                Finding("SegmentationClass/image2.png", "no such file"),
                Finding("ImageSets/Segmentation/train.txt", "is short"),
            ),
        ],
    )
    assert "Not fit for training" in page
    assert "1 of 2 checks failed, with 3 findings in 3 files" in page
    for words in ("looks odd", "no such file", "is short", "Mend it.", "It does not."):
        assert words in page
    assert page.count('class="card bad"') == 2
    assert page.count("data:image/jpeg") == 3
    assert ">no mask<" in page
    assert "Samples" not in page


def test_an_errored_check_is_called_so(layout: Layout) -> None:
    page = write(layout, [replace(GOOD, passed=False, errored=True)])
    assert ">errored<" in page
    assert "Not fit for training" in page


@pytest.mark.parametrize("checks", [[GOOD], [bad(Finding("JPEGImages/image1.jpg", "odd"))]])
def test_without_pictures_no_photograph_is_left(layout: Layout, checks: list[DataCheck]) -> None:
    page = write(layout, checks, pictures=False)
    assert "data:image" not in page
    assert "Classes" in page


def test_an_empty_data_set_has_a_page(layout: Layout) -> None:
    page = write(
        layout, [bad(Finding("ImageSets/Segmentation", "no list names any image"))], empty=True
    )
    assert "no list names any image" in page
    assert "None" not in page
    assert "nan" not in re.sub(r"<style>.*</style>", "", page, flags=re.S)


def test_no_checks_are_no_pass(layout: Layout) -> None:
    assert "Not fit for training" in write(layout, [])


def test_thumbnails_are_limited_and_findings_are_not(layout: Layout) -> None:
    ids = [f"copy{index}" for index in range(MAX_OFFENDERS + 5)]
    for image_id in ids:
        layout.image_path(image_id).write_bytes(b"no image")
        layout.mask_path(image_id).write_bytes(b"no mask")
    layout.list_path("train").write_text("\n".join(ids))
    validation = check(
        scan(layout), parse_params({"validate": {"required_classes": ["background"]}})
    )
    page = write(layout, list(validation.checks))
    assert page.count('class="card bad"') == MAX_OFFENDERS
    assert f"The first {MAX_OFFENDERS} of {len(ids)} are shown" in page
    for image_id in ids:
        assert f"<code>JPEGImages/{image_id}.jpg</code>" in page


def test_words_are_escaped(layout: Layout) -> None:
    page = write(layout, [bad(Finding("JPEGImages/<i>.jpg", "<script>alert(1)</script>"))])
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
