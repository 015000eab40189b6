"""Which mask belongs to which photograph, by directories, patterns and names."""

from __future__ import annotations

import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import open_layout
from tests.unit.importers.conftest import Run, greyscale, photograph, pictures

SPLITS = {"train": 2, "val": 2, "test": 2}
MASK = np.zeros((30, 40), np.uint8)
mask = partial(greyscale, values=MASK)
AS_ZERO: dict[str, Any] = {"classes": ("a", "b")}


def streets(source: Path, images: str, masks: str) -> None:
    """Write a few photographs and masks of each split by patterns of their paths."""
    for number, split in enumerate(SPLITS):
        for index in range(2):
            name = f"0016E5_{number}{index}"
            photograph(source / images.format(split, name), shade=60 * number + 20 * index)
            values = np.full((30, 40), 5 * number + index, np.uint8)
            greyscale(source / masks.format(split, name), values)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{}/{}.png", "{}annot/{}.png"),  # CamVid of SegNet
        ("{}/{}.png", "{}_labels/{}_L.png"),  # CamVid of Kaggle
        ("{}_images/cam/{}.png", "{}_masks/cam/{}.png"),
    ],
)
@pytest.mark.parametrize("by_patterns", [False, True])
def test_directories_of_masks_beside_those_of_photographs(
    source: Path, root: Path, run_import: Run, images: str, masks: str, by_patterns: bool
) -> None:
    streets(source, images, masks)
    patterns = {"images": images.format("*", "*"), "masks": masks.format("*", "*")}
    imported = run_import(
        "folder", source, classes=("voc",), **(patterns if by_patterns else {})
    )  # fmt: skip
    assert dict(imported.images) == SPLITS
    layout = open_layout(root / "data/voc")
    # What a pattern names itself is the same for all images, and in no id.
    before = "cam_" if "cam" in images and not by_patterns else ""
    for number, split in enumerate(SPLITS):
        for index, image_id in enumerate(layout.ids(split)):
            assert image_id == f"{before}0016E5_{number}{index}"
            assert (read_mask(layout.mask_path(image_id)) == 5 * number + index).all()


def test_what_a_star_of_a_directory_stands_for_is_the_same(source: Path, run_import: Run) -> None:
    streets(source, "rgb_{}/cam/{}.png", "{}_gt/cam/gt_{}.png")
    patterns = {"images": "rgb_*/**/*.png", "masks": "*_gt/**/gt_*.png"}
    assert dict(run_import("folder", source, classes=("voc",), **patterns).images) == SPLITS
    (source / "val_gt").rename(source / "va_gt")
    with pytest.raises(SegopsError, match=r"rgb_val/cam/0016E5_10\.png: expected one mask of its"):
        run_import("folder", source, classes=("voc",), **patterns)


@pytest.mark.parametrize("names", [("a.png", "a_gt.png"), ("a_gt.png", "a.png")])
def test_an_exact_name_wins(source: Path, root: Path, run_import: Run, names: Any) -> None:
    pictures(source / "images", *names)
    for value, name in enumerate(("a.png", "a_gt.png")):
        greyscale(source / "masks" / name, MASK + np.uint8(value))
    run_import("folder", source, **AS_ZERO)
    layout = open_layout(root / "data/voc")
    assert [read_mask(layout.mask_path(one)).max() for one in ("a", "a_gt")] == [0, 1]


def test_masks_of_several_are_listed_once(source: Path, run_import: Run) -> None:
    pictures(source / "images", "a.png")
    for name in ("a_gt", "a_mask"):
        mask(source / f"masks/{name}.png")
    with pytest.raises(SegopsError, match="there are several: ") as refused:
        run_import("folder", source, **AS_ZERO)
    assert "1 problem(s)" in str(refused.value)


@pytest.mark.parametrize(
    ("of_image", "of_mask"),
    [
        (unicodedata.normalize("NFC", "prüf"), unicodedata.normalize("NFD", "prüf")),
        ("IMG", "img"),
        ("Cam/IMG", "cam/img_GT"),
    ],
)
def test_names_in_another_case_or_unicode_form(
    source: Path, run_import: Run, of_image: str, of_mask: str
) -> None:
    for number in range(2):
        photograph(source / f"images/{of_image}_{number}.png", shade=30 * number)
        stem, slash, end = of_mask.partition("_")
        mask(source / f"masks/{stem}_{number}{slash}{end}.png")
    assert sum(run_import("folder", source, **AS_ZERO).images.values()) == 2


@pytest.mark.parametrize("patterns", [{}, {"images": "**/images/*.*", "masks": "**/masks/*.*"}])
def test_what_macos_and_hidden_directories_hold_is_passed_over(
    source: Path, run_import: Run, patterns: dict[str, str]
) -> None:
    pictures(source / "images", "a.png", "b.png")
    for name in ("masks/a.png", "masks/b.png", "masks/._a.png", "__MACOSX/masks/._b.png",
                 ".cache/images/a.png", ".cache/masks/a.png"):  # fmt: skip
        mask(source / name)
    assert sum(run_import("folder", source, **AS_ZERO, **patterns).images.values()) == 2


@pytest.mark.parametrize("mode", ["RGB", "P", "LA"])
def test_a_threshold_takes_grey_of_any_mode(
    source: Path, root: Path, run_import: Run, mode: str
) -> None:
    pictures(source / "images", "a.png", "b.png")
    values = MASK.copy()
    values[3:9], values[9:12] = 255, 99
    for name in "ab":
        greyscale(source / f"masks/{name}.png", values)
        path = source / f"masks/{name}.png"
        Image.open(path).convert(mode).save(path)
    run_import("folder", source, threshold=100, **AS_ZERO)
    found = read_mask(open_layout(root / "data/voc").mask_path("a"))
    np.testing.assert_array_equal(found, values == 255)


@pytest.mark.parametrize("values", [np.full((30, 40), 300, np.uint16), np.eye(3, dtype=np.uint8)])
def test_a_threshold_of_no_grey_says_what_to_do(
    source: Path, run_import: Run, values: NDArray[Any]
) -> None:
    pictures(source / "images", "a.png", "b.png")
    mask(source / "masks/b.png")
    colors = values if values.dtype == np.uint16 else np.resize(values, (30, 40, 3))
    Image.fromarray(colors).save(source / "masks/a.png")
    with pytest.raises(SegopsError, match=r"a\.png: mode (I;16|RGB); --threshold .* Save the mask"):
        run_import("folder", source, threshold=100, **AS_ZERO)
