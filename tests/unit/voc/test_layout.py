"""Directories of VOC layout, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.runtime.errors import SegopsError
from segops.voc.layout import Layout, open_layout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    write(tmp_path / "voc", "train", "2007_000032\n2007_000039\n")
    write(tmp_path / "voc", "val", "2007_000033\n")
    return tmp_path / "voc"


def write(root: Path, split: str, text: str) -> None:
    (root / "ImageSets/Segmentation" / f"{split}.txt").write_bytes(text.encode())


def findings(root: Path) -> list[str]:
    with pytest.raises(SegopsError) as caught:
        open_layout(root)
    return [line.strip().replace(f"{root}/", "") for line in str(caught.value).splitlines()[1:]]


def test_paths_and_ids(root: Path) -> None:
    layout = open_layout(root)
    assert layout.splits() == {
        "train": ("2007_000032", "2007_000039"),
        "val": ("2007_000033",),
    }
    assert layout.ids("val") == ("2007_000033",)
    assert layout.image_path("x") == root / "JPEGImages/x.jpg"
    assert layout.mask_path("x") == root / "SegmentationClass/x.png"


def test_lists_of_other_systems_are_read(root: Path) -> None:
    write(root, "train", "\ufeffa \r\nb\r\n\r\n  c")
    assert open_layout(root).ids("train") == ("a", "b", "c")


def test_generated_data_can_be_opened(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    for split, count in (("train", 12), ("val", 6)):
        assert len(layout.ids(split)) == count
        for image_id in layout.ids(split):
            assert layout.image_path(image_id).is_file()
            assert layout.mask_path(image_id).is_file()


def test_all_that_is_missing_is_listed(tmp_path: Path) -> None:
    assert findings(tmp_path) == [
        "JPEGImages: no such directory",
        "SegmentationClass: no such directory",
        "ImageSets/Segmentation/train.txt: no such file; expected one image id a line",
        "ImageSets/Segmentation/val.txt: no such file; expected one image id a line",
    ]


def test_two_photographs_of_one_image(root: Path) -> None:
    write(root, "train", "a\nb\n")
    for name in ("a.jpg", "a.png", "b.tif", "c.jpg", "c.png"):
        (root / "JPEGImages" / name).write_bytes(b"")
    assert findings(root) == ["JPEGImages/a.jpg: also a.png; keep one of them"]
    assert Layout(root).image_path("b") == root / "JPEGImages/b.tif"


def test_empty_list(root: Path) -> None:
    write(root, "val", "\n \n")
    assert findings(root) == [
        "ImageSets/Segmentation/val.txt: names no image; expected one image id a line"
    ]


def test_ids_given_twice(root: Path) -> None:
    write(root, "train", "a\nb\na\nc\nb\nb\n")
    assert findings(root) == [
        "ImageSets/Segmentation/train.txt: a is given 2 times",
        "ImageSets/Segmentation/train.txt: b is given 3 times",
    ]


@pytest.mark.parametrize("bad", ["../x", "a/b", "a\\b", ".", "..", "a\0b", "a\tb", "/etc/passwd"])
def test_ids_that_are_no_file_names(root: Path, bad: str) -> None:
    write(root, "train", f"fine\n{bad}\n")
    assert findings(root) == [
        f"ImageSets/Segmentation/train.txt: {bad!r} is no image id; "
        "expected a file name without directory or suffix"
    ]
    with pytest.raises(SegopsError, match="is no image id"):
        Layout(root).ids("train")


def test_list_that_is_no_text(root: Path) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00a")
    (found,) = findings(root)
    assert found.startswith("ImageSets/Segmentation/train.txt: not readable as text")


def test_no_such_directory_says_where_data_comes_from(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match=r"absent: no such directory\. `dvc pull data/voc\.dvc`"):
        open_layout(tmp_path / "absent")


def test_data_further_down_is_pointed_to(root: Path) -> None:
    with pytest.raises(SegopsError, match=rf"Did you mean {root}\?"):
        open_layout(root.parent)
