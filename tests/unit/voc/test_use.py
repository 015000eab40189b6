"""A user's own directory in VOC layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from segops.files import sha256_tree
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_image
from segops.voc.layout import Layout, open_layout
from segops.voc.metadata import read_metadata
from segops.voc.use import LISTS, LayoutError, copy_file, find_layout, use


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def every_id(layout: Layout) -> list[str]:
    return [one for ids in layout.splits().values() for one in ids]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "voc"


def test_what_the_lists_name_is_copied_and_nothing_else(tiny_voc: Path, target: Path) -> None:
    before = sha256_tree(tiny_voc)
    (tiny_voc / "README.txt").write_text("mine")
    (tiny_voc / "JPEGImages" / "unlisted.jpg").write_bytes(b"unlisted")
    (tiny_voc / "SegmentationClass" / "unlisted.png").write_bytes(b"unlisted")
    (tiny_voc / LISTS / "trainval.txt").write_text("unlisted\n")
    layout = use(tiny_voc, target)
    assert layout == open_layout(target)
    assert sha256_tree(target) == before
    assert {path.name for path in target.parent.iterdir()} == {"voc"}


def test_the_copy_shares_no_file_with_the_original(tiny_voc: Path, target: Path) -> None:
    layout = use(tiny_voc, target)
    first = every_id(layout)[0]
    layout.image_path(first).write_bytes(b"changed")
    assert Layout(tiny_voc).image_path(first).read_bytes() != b"changed"


def test_images_without_a_mask_need_none_where_no_list_names_them(
    tiny_voc: Path, target: Path
) -> None:
    first, *rest = Layout(tiny_voc).ids("train")
    Layout(tiny_voc).list_path("train").write_text("\n".join(rest))
    Layout(tiny_voc).mask_path(first).unlink()
    assert use(tiny_voc, target).ids("train") == tuple(rest)
    assert not Layout(target).image_path(first).exists()


def test_the_layout_is_found_below_the_directory_given(tiny_voc: Path, tmp_path: Path) -> None:
    inner = tmp_path / "download" / "VOCdevkit" / "VOC2012"
    shutil.copytree(tiny_voc, inner)
    (tmp_path / "download" / ".cache").mkdir()
    shutil.copytree(tiny_voc, tmp_path / "download" / ".cache" / "voc")
    assert find_layout(tmp_path / "download") == inner
    assert every_id(use(tmp_path / "download", tmp_path / "data")) == every_id(Layout(tiny_voc))


def test_a_layout_reached_by_two_ways_is_one(tiny_voc: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "latest").symlink_to(tiny_voc)
    (tmp_path / "mine" / "round").symlink_to(tmp_path / "mine")
    assert find_layout(tmp_path / "mine") == tiny_voc


def test_two_layouts_below_are_both_named(tiny_voc: Path, tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        shutil.copytree(tiny_voc, tmp_path / "VOCdevkit" / year)
    with pytest.raises(SegopsError, match=r"(?s)several.*\n  .*VOC2007\n  .*VOC2012"):
        use(tmp_path / "VOCdevkit", tmp_path / "data")


def test_no_layout_at_all_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="nowhere: no such directory"):
        use(tmp_path / "nowhere", tmp_path / "data")
    (tmp_path / "mine" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(SegopsError) as error:
        use(tmp_path / "mine", tmp_path / "data")
    assert "SegmentationClass/, ImageSets/Segmentation/ missing" in str(error.value)


def test_a_missing_list_is_named(tiny_voc: Path, target: Path) -> None:
    Layout(tiny_voc).list_path("val").unlink()
    with pytest.raises(LayoutError, match=r"val\.txt: no such file"):
        use(tiny_voc, target)


def test_a_test_split_is_copied_or_said_to_be_left_out(
    tiny_voc: Path, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = Layout(tiny_voc)
    first, second, *rest = layout.ids("train")
    layout.write_list("train", rest)
    layout.write_list("test", [first, second])
    used = use(tiny_voc, target)
    assert used.ids("test") == (first, second)
    assert used.mask_path(second).is_file()
    layout.mask_path(second).unlink()
    assert not use(tiny_voc, target).list_path("test").exists()
    assert "test.txt: left out, since 1 of its 2 images have no mask" in caplog.text


def test_an_empty_list_is_refused(tiny_voc: Path, target: Path) -> None:
    Layout(tiny_voc).list_path("val").write_text("\n")
    with pytest.raises(SegopsError, match=r"val\.txt: names no image"):
        use(tiny_voc, target)


def test_all_missing_files_are_listed_and_nothing_is_put_in_place(
    tiny_voc: Path, target: Path
) -> None:
    layout = Layout(tiny_voc)
    train, val = layout.ids("train"), layout.ids("val")
    layout.image_path(train[0]).unlink()
    layout.image_path(val[1]).unlink()
    layout.mask_path(train[3]).rename(layout.mask_path(train[3]).with_suffix(".bmp"))
    with pytest.raises(SegopsError) as error:
        use(tiny_voc, target)
    text = str(error.value)
    assert "3 file(s) that the lists name" in text
    assert f"JPEGImages/{train[0]}.jpg: missing" in text
    assert f"JPEGImages/{val[1]}.jpg: missing" in text
    assert f"SegmentationClass/{train[3]}.png: missing; there is {train[3]}.bmp" in text
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".JPEG", ".Jpg"])
def test_other_spellings_of_jpeg_are_copied_as_jpg(
    tiny_voc: Path, target: Path, suffix: str
) -> None:
    expected = sha256_tree(tiny_voc)
    for path in (tiny_voc / "JPEGImages").iterdir():
        path.rename(path.with_suffix(suffix))
    for path in (tiny_voc / "SegmentationClass").iterdir():
        path.rename(path.with_suffix(".PNG"))
    use(tiny_voc, target)
    assert sha256_tree(target) == expected


def test_ids_may_hold_dots(tiny_voc: Path, target: Path) -> None:
    layout = Layout(tiny_voc)
    first, *rest = layout.ids("val")
    layout.image_path(first).rename(tiny_voc / "JPEGImages" / "frame.v2.0001.jpg")
    layout.mask_path(first).rename(tiny_voc / "SegmentationClass" / "frame.v2.0001.png")
    layout.list_path("val").write_text("\n".join(["frame.v2.0001", *rest]))
    assert use(tiny_voc, target).image_path("frame.v2.0001").is_file()


def test_two_candidates_for_one_image_are_named(tiny_voc: Path, target: Path) -> None:
    layout = Layout(tiny_voc)
    first = layout.ids("val")[0]
    path = layout.image_path(first)
    shutil.copy(path, path.with_suffix(".jpeg"))
    assert use(tiny_voc, target)  # VOC's own spelling wins.
    shutil.copy(path, path.with_suffix(".PNG"))
    path.rename(path.with_suffix(".JPG"))
    expected = f"several candidates: {first}.JPG, {first}.PNG, {first}.jpeg"
    with pytest.raises(SegopsError, match=expected):
        use(tiny_voc, target)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".WEBP"])
def test_photographs_of_other_formats_keep_their_bytes(
    tiny_voc: Path, target: Path, suffix: str
) -> None:
    layout, contents = Layout(tiny_voc), {}
    for one in every_id(layout):
        path = layout.image_path(one)
        Image.open(path).save(path.with_suffix(suffix))
        contents[one] = path.with_suffix(suffix).read_bytes()
        path.unlink()
    copied = use(tiny_voc, target)
    usual = {".tiff": ".tif"}.get(suffix, suffix.lower())
    for one in every_id(copied):
        assert copied.image_path(one).suffix == usual
        assert copied.image_path(one).read_bytes() == contents[one]
        assert read_image(copied.image_path(one)).shape[2] == 3


def test_a_source_that_is_the_target_is_only_checked(tiny_voc: Path) -> None:
    (tiny_voc / "README.txt").write_text("mine")
    before = names(tiny_voc)
    assert use(tiny_voc, tiny_voc) == Layout(tiny_voc)
    assert use(tiny_voc / "JPEGImages" / "..", tiny_voc) == Layout(tiny_voc)
    assert names(tiny_voc) == before
    layout = Layout(tiny_voc)
    layout.image_path(layout.ids("val")[0]).unlink()
    with pytest.raises(SegopsError, match="1 file"):
        use(tiny_voc, tiny_voc)


def test_a_source_that_is_the_target_must_have_the_spelling_of_voc(tiny_voc: Path) -> None:
    path = Layout(tiny_voc).image_path(Layout(tiny_voc).ids("val")[0])
    path.rename(path.with_suffix(".JPG"))
    with pytest.raises(SegopsError, match=rf"rename 1 file.*\n  .*\.JPG -> {path.name}"):
        use(tiny_voc, tiny_voc)


def test_a_source_inside_the_target_is_not_destroyed(tiny_voc: Path, target: Path) -> None:
    inner = target / "VOCdevkit" / "VOC2012"
    shutil.copytree(tiny_voc, inner)
    with pytest.raises(SegopsError, match="Move it elsewhere first"):
        use(inner, target)
    with pytest.raises(SegopsError, match="Move it elsewhere first"):
        use(target, target)
    assert names(inner) == names(tiny_voc)


def test_what_was_there_is_replaced(tiny_voc: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    use(tiny_voc, target)
    assert names(target) == names(tiny_voc)


def test_links_to_images_are_followed(tiny_voc: Path, target: Path, tmp_path: Path) -> None:
    expected = sha256_tree(tiny_voc)
    (tiny_voc / "JPEGImages").rename(tmp_path / "photographs")
    (tiny_voc / "JPEGImages").mkdir()
    for path in (tmp_path / "photographs").iterdir():
        (tiny_voc / "JPEGImages" / path.name).symlink_to(path)
    use(tiny_voc, target)
    assert sha256_tree(target) == expected
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, tiny_voc: Path, target: Path) -> None:
    path = Layout(tiny_voc).image_path(Layout(tiny_voc).ids("val")[0])
    path.unlink()
    path.symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(SegopsError, match=f"{path.name}: missing"):
        use(tiny_voc, target)
    assert not target.exists()


def test_copy_file_copies_empty_and_large_files(tmp_path: Path) -> None:
    for content in (b"", os.urandom(3_000_000)):
        (tmp_path / "a").write_bytes(content)
        copy_file(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == content


def test_images_of_a_list_are_left_out(tiny_voc: Path, target: Path) -> None:
    before = Layout(tiny_voc).splits()
    unwanted = (before["train"][0], before["val"][1], "elsewhere")
    layout = use(tiny_voc, target, unwanted)
    assert layout.splits() == {
        split: tuple(one for one in ids if one not in unwanted) for split, ids in before.items()
    }
    assert not layout.image_path(unwanted[0]).exists()
    assert not layout.mask_path(unwanted[1]).exists()
    # Also where the data already are in place.
    more = (*unwanted, before["train"][1])
    use(target, target, more)
    assert len(open_layout(target).ids("train")) == len(before["train"]) - 2
    assert Layout(tiny_voc).splits() == before


def test_a_list_that_leaves_nothing_out_or_nothing_over_is_refused(
    tiny_voc: Path, target: Path
) -> None:
    with pytest.raises(SegopsError, match=r"none of the 1 images to leave out .* 'elsewhere'"):
        use(tiny_voc, target, ("elsewhere",))
    with pytest.raises(SegopsError, match="val: all 6 images would be left out"):
        use(tiny_voc, target, Layout(tiny_voc).ids("val"))
    assert not target.exists()


def test_the_rows_of_the_copied_images_come_along(
    tiny_voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = every_id(open_layout(tiny_voc))
    (tiny_voc / "m.csv").write_text("image_id,site\n" + "".join(f"{one},a\n" for one in ids))
    target = tmp_path / "copy"
    use(tiny_voc, target, ids[:1], metadata="m.csv")
    assert list(read_metadata(open_layout(target), "m.csv").values) == ids[1:]
    assert f"{tiny_voc / 'm.csv'}: 1 row(s) left out" in caplog.text
    caplog.clear()
    cells = [f"JPEGImages/{ids[0]}.jpg", ids[1].upper(), *ids[2:]]
    (tiny_voc / "m.csv").write_text("image_id,site\n" + "".join(f"{one},a\n" for one in cells))
    use(tiny_voc, target, metadata="m.csv", strip=True)
    assert list(read_metadata(open_layout(target), "m.csv").values) == ids
    assert "left out" not in caplog.text
    use(tiny_voc, target, metadata="other.csv")
    assert not list(target.glob("*.csv"))
