"""Lists whose lines hold more than ids, or spell them otherwise: told in one sentence, mended."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from segops.runtime.errors import SegopsError
from segops.voc.layout import IMAGES, MASKS, Layout, open_layout
from segops.voc.list_lines import stripped
from segops.voc.reading import Bands, Reading
from segops.voc.use import use

NFC = unicodedata.normalize("NFC", "B\u00e4r")
NFD = unicodedata.normalize("NFD", NFC)


def rewrite(root: Path, change: Callable[[str], str], splits: tuple[str, ...]) -> None:
    layout = Layout(root)
    for split in splits:
        layout.write_list(split, [change(one) for one in layout.ids(split)])


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: f"{one}  1", "further columns"),
        (lambda one: f"{one} -1", "further columns"),
        (lambda one: f"{one},{one}", "further columns"),
        (lambda one: f"JPEGImages/{one}.jpg SegmentationClass/{one}.png", "a directory"),
        (lambda one: f"{one}.jpg", "a suffix"),
        (lambda one: f"{one}.JPEG", "a suffix"),
        (lambda one: f"{one}.png", "a suffix"),
        (lambda one: f"/data/JPEGImages/{one}", "a directory"),
        (lambda one: f"D:\\set\\{one}.jpg", "a directory"),
    ],
)
@pytest.mark.parametrize("splits", [("train", "val"), ("val",)])
def test_lines_with_more_than_an_id(
    change: Callable[[str], str],
    words: str,
    splits: tuple[str, ...],
    tiny_voc: Path,
    tmp_path: Path,
) -> None:
    wanted = Layout(tiny_voc).splits()
    rewrite(tiny_voc, change, splits)
    before, first = contents(tiny_voc), wanted[splits[0]][0]
    with pytest.raises(SegopsError) as refused:
        use(tiny_voc, tmp_path / "target")
    text = str(refused.value)
    assert "\n" not in text
    assert f"{change(first)!r} stands for {first!r} ({words})" in text
    assert f"{sum(len(wanted[split]) for split in splits)} of 18 lines" in text
    assert f"`segops data use {tiny_voc} --strip`" in text
    assert not (tmp_path / "target").exists()
    layout = use(tiny_voc, tmp_path / "target", strip=True)
    assert layout.splits() == wanted
    assert not any(path.is_symlink() for path in layout.root.rglob("*"))
    assert contents(tiny_voc) == before, "the source stays as it is"


@pytest.mark.parametrize(
    ("photograph", "mask", "line"),
    [(NFD, NFD, NFC), (NFC, NFC, NFD), (NFC, NFD, NFC), ("IMG_1", "IMG_1", "img_1"),
     ("IMG_1", "img_1", "IMG_1"), (NFD, NFC, f"{NFC}.jpg".upper())],
)  # fmt: skip
def test_names_in_another_form(
    photograph: str, mask: str, line: str, tiny_voc: Path, tmp_path: Path
) -> None:
    old, *others = Layout(tiny_voc).ids("train")
    (tiny_voc / IMAGES / f"{old}.jpg").rename(tiny_voc / IMAGES / f"{photograph}.jpg")
    (tiny_voc / MASKS / f"{old}.png").rename(tiny_voc / MASKS / f"{mask}.png")
    Layout(tiny_voc).write_list("train", [line, *others])
    with pytest.raises(SegopsError, match=r"1 of 18 lines .*--strip"):
        use(tiny_voc, tmp_path / "target")
    layout = use(tiny_voc, tmp_path / "target", strip=True)
    assert layout.ids("train") == (photograph, *others)
    assert layout.mask_path(photograph).is_file()


def test_data_in_place_are_mended(tiny_voc: Path) -> None:
    wanted = Layout(tiny_voc).splits()
    rewrite(tiny_voc, lambda one: f"{one} 1", ("train", "val"))
    assert use(tiny_voc, tiny_voc, strip=True).splits() == wanted
    assert open_layout(tiny_voc).splits() == wanted


@pytest.mark.parametrize("strip", [True, False])
def test_a_line_that_fits_nothing_is_named_as_before(
    strip: bool, tiny_voc: Path, tmp_path: Path
) -> None:
    layout = Layout(tiny_voc)
    layout.write_list("train", [*layout.ids("train"), "nowhere"])
    with pytest.raises(SegopsError) as refused:
        use(tiny_voc, tmp_path / "target", strip=strip)
    assert str(refused.value).startswith(f"{tiny_voc}: 2 file(s) that the lists name:")
    assert "JPEGImages/nowhere.jpg: missing" in str(refused.value)


def test_two_files_alike_are_no_answer(tiny_voc: Path, tmp_path: Path) -> None:
    layout = Layout(tiny_voc)
    first, second, *others = layout.ids("train")
    for old, new in ((first, "a"), (second, "A")):
        layout.image_path(old).rename(tiny_voc / IMAGES / f"{new}.jpg")
        layout.mask_path(old).rename(tiny_voc / MASKS / f"{new}.png")
    layout.write_list("train", ["a", "A", *others])
    assert len(use(tiny_voc, tmp_path / "target").ids("train")) == 12
    layout.write_list("train", ["a.jpg", "A.jpg", *others])
    assert use(tiny_voc, tmp_path / "other", strip=True).ids("train")[:2] == ("a", "A")


def test_a_band_without_a_directory_is_named(tiny_voc: Path, tmp_path: Path) -> None:
    reading = Reading(bands=Bands(directories=("Depth",)))
    with pytest.raises(SegopsError, match=f"{tiny_voc}/Depth"):
        use(tiny_voc, tmp_path / "target", reading=reading, strip=True)


def test_a_photograph_with_the_mask_of_another_is_no_image(tiny_voc: Path) -> None:
    first, second, *_ = Layout(tiny_voc).ids("train")
    rewrite(tiny_voc, lambda one: f"{first}.jpg SegmentationClass/{second}.png", ("train",))
    with (
        pytest.raises(SegopsError, match=rf"{first}\.jpg SegmentationClass/{second}\.png"),
        stripped(tiny_voc) as directory,
    ):
        open_layout(directory)
