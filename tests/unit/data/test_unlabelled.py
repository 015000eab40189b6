"""Images without masks: packed apart, refused where they are images of another split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.file import parse_params
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_image
from segops.voc.layout import UNLABELLED, Layout, open_layout
from segops.voc.use import use
from tests.unit.data.test_store import pair, write

LIST = "more"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Six images of train, three of val, one of test, and three without masks."""
    train = {f"t{index}": pair(index) for index in range(6)}
    made = write(tmp_path / "voc", train, {f"v{index}": pair(90 + index) for index in range(3)})
    for name, seed in (("x0", 50), ("u2", 62), ("u0", 60), ("u1", 61)):
        Image.fromarray(pair(seed, 6, 8)[0]).save(made.image_path(name), quality=95)
    Image.fromarray(pair(50, 6, 8)[1]).save(made.mask_path("x0"))
    made.write_list("test", ["x0"])
    made.write_list(LIST, ["u2", "u0", "u1"])
    return made


def packed(layout: Layout, name: str | None = LIST) -> PackedStore:
    target = layout.root.parent / "packed"
    pack(open_layout(layout.root, unlabelled=name), target, VOC_CLASSES)
    return PackedStore(target)


def test_they_are_packed_without_masks(layout: Layout) -> None:
    store = packed(layout)
    assert store.ids(UNLABELLED) == ("u0", "u1", "u2")
    for name in store.ids(UNLABELLED):
        assert np.array_equal(store.image(name), read_image(layout.image_path(name)))
        assert store.size(name) == (6, 8)
    assert not (store.path / UNLABELLED / "masks.bin").exists()
    assert {*store.ids("train"), *store.ids("val")}.isdisjoint(store.ids(UNLABELLED))


def test_they_have_a_hash_of_their_own(layout: Layout) -> None:
    without = packed(layout, None)
    data, none = without.data_hash, without.split_hash(UNLABELLED)
    assert without.ids(UNLABELLED) == ()
    store = packed(layout)
    assert store.data_hash == data
    before = store.split_hash(UNLABELLED)
    layout.write_list(LIST, ["u0", "u1"])
    assert len({none, before, packed(layout).split_hash(UNLABELLED)}) == 3


@pytest.mark.parametrize(("owner", "split"), [("t1", "train"), ("v1", "val"), ("x0", "test")])
def test_an_image_of_another_split_is_refused_by_its_file_and_by_its_pixels(
    layout: Layout, owner: str, split: str
) -> None:
    layout.image_path("u0").write_bytes(layout.image_path(owner).read_bytes())
    pixels = read_image(layout.image_path(owner))
    layout.image_path("u1").unlink()
    Image.fromarray(pixels).save(layout.root / "JPEGImages" / "u1.png")
    with pytest.raises(SegopsError, match=r"2 image\(s\) unusable") as caught:
        packed(layout)
    for name in ("u0", "u1"):
        assert (
            f"{name}: the same image as {owner} of {split}; take it out of the list more "
            "(data.unlabelled)" in str(caught.value)
        )
    assert not (layout.root.parent / "packed").exists()


def test_an_id_of_another_split_is_refused(layout: Layout) -> None:
    layout.write_list(LIST, ["u0", "v1", "t2"])
    with pytest.raises(SegopsError) as caught:
        packed(layout)
    for name in ("v1", "t2"):
        assert f"{name}: in another split; take it out of the list more" in str(caught.value)


def test_an_image_of_a_test_without_masks_is_refused_by_its_id_and_by_its_file(
    layout: Layout,
) -> None:
    """Such a test is not packed, with none of its images."""
    layout.write_list("test", ["x0", "u2"])
    layout.image_path("u0").write_bytes(layout.image_path("x0").read_bytes())
    with pytest.raises(SegopsError, match=r"2 image\(s\) unusable") as caught:
        packed(layout)
    for name, owner in (("u0", "x0"), ("u2", "u2")):
        assert f"{name}: the same image as {owner} of test; take it out" in str(caught.value)
    layout.write_list(LIST, ["u1"])
    assert packed(layout).ids(UNLABELLED) == ("u1",)


def test_all_bad_files_are_listed(layout: Layout) -> None:
    layout.image_path("u0").write_bytes(b"no image")
    layout.image_path("u2").unlink()
    with pytest.raises(SegopsError) as caught:
        packed(layout)
    for words in ("u0.jpg: not decodable", "u2.jpg: no such file. Put the image there, or"):
        assert words in str(caught.value)


def test_a_list_that_is_not_there_is_named_with_its_parameter(layout: Layout) -> None:
    with pytest.raises(SegopsError, match=r"gone\.txt: no such file.*data\.unlabelled: gone"):
        open_layout(layout.root, unlabelled="gone")
    layout.write_list(LIST, ["../u0"])
    with pytest.raises(SegopsError, match=r"more\.txt: '\.\./u0' is no image id"):
        open_layout(layout.root, unlabelled=LIST)


@pytest.mark.parametrize("name", ["val", "train", "test", "../more", "a/b", "-x", "", 7, "m.txt"])
def test_what_is_no_list_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(SegopsError, match=r"data\.unlabelled: ") as caught:
        parse_params({"data": {"unlabelled": name}})
    assert str(caught.value).count("found") == 1


def test_they_are_copied_with_the_data_set(layout: Layout, tmp_path: Path) -> None:
    copy = use(layout.root, tmp_path / "copy", unlabelled=LIST)
    assert copy.unlabelled_ids() == layout.ids(LIST)
    assert packed(copy).ids(UNLABELLED) == ("u0", "u1", "u2")
    assert not copy.mask_path("u0").exists()
    without = use(layout.root, tmp_path / "without")
    assert not without.image_path("u0").exists()
    fewer = use(layout.root, tmp_path / "fewer", ["u1"], unlabelled=LIST)
    assert fewer.ids(LIST) == ("u2", "u0")
    layout.image_path("u2").unlink()
    with pytest.raises(SegopsError, match=r"JPEGImages/u2\.jpg: missing"):
        use(layout.root, tmp_path / "broken", unlabelled=LIST)


def test_lines_of_their_list_are_stripped_too(layout: Layout, tmp_path: Path) -> None:
    layout.list_path(LIST).write_text("JPEGImages/u0.jpg\nJPEGImages/u1.jpg\n")
    with pytest.raises(SegopsError, match="2 of 12 lines are not the names"):
        use(layout.root, tmp_path / "copy", unlabelled=LIST)
    assert use(layout.root, tmp_path / "copy", strip=True, unlabelled=LIST).ids(LIST) == (
        "u0",
        "u1",
    )
