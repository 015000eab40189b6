"""The images of a pretraining: what is left out of a directory, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.augment.policy import build_policy
from segops.data.datasets import CropDataset
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.params.augment import AugmentParams, ScaleParams
from segops.params.data import DataParams
from segops.pretrain.images import of_folder, of_train
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.voc.layout import Layout, open_layout
from tests.support.folder_runs import picture, save

DATA = DataParams(classes="voc")


@pytest.fixture
def layout(tiny_voc: Path) -> Layout:
    return open_layout(tiny_voc)


@pytest.fixture
def store(layout: Layout, tmp_path: Path) -> PackedStore:
    pack(layout, tmp_path / "packed", VOC_CLASSES)
    return PackedStore(tmp_path / "packed")


def test_images_that_judge_and_repeated_ones_are_left_out(
    layout: Layout, store: PackedStore, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    save(folder / "b/one.png", 1)
    save(folder / "two.png", 2)
    Image.fromarray(picture(1)).save(folder / "again.tif")
    first, second, *_ = layout.ids("val")
    shutil.copy(layout.image_path(first), folder / "a file of val.jpg")
    Image.open(layout.image_path(second)).save(folder / "pixels of val.png")
    shutil.copy(layout.image_path(layout.ids("train")[0]), folder / "train.jpg")
    found = of_folder(folder, DATA, store, layout)
    assert found.ids == ["again.tif", "train.jpg", "two.png"]
    assert (found.held_out, found.repeated) == (2, 1)
    np.testing.assert_array_equal(found.source.image("again.tif"), picture(1))

    (folder / "b/one.png").unlink()
    assert of_folder(folder, DATA, store, layout).digest == found.digest
    save(folder / "three.png", 3)
    assert of_folder(folder, DATA, store, layout).digest != found.digest


def test_images_of_a_test_without_masks_are_left_out(
    layout: Layout, store: PackedStore, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    save(folder / "one.png", 1)
    for name in ("with a mask", "without"):
        save(layout.root / f"JPEGImages/{name}.png", len(name))
        shutil.copy(layout.image_path(name), folder / f"copy {name}.png")
    shutil.copy(layout.mask_path(layout.ids("train")[0]), layout.mask_path("with a mask"))
    assert of_folder(folder, DATA, store, layout).held_out == 0
    layout.write_list("test", ["with a mask", "without", "no file"])
    found = of_folder(folder, DATA, store, layout)
    assert (found.ids, found.held_out) == (["one.png"], 2)


def test_the_digest_is_of_the_order_and_of_the_bits_of_a_pixel_too(
    layout: Layout, store: PackedStore, tmp_path: Path
) -> None:
    """Crops are drawn by the number of an image."""
    for name, seed in (("one", 1), ("two", 2)):
        save(tmp_path / f"straight/{name}.png", seed)
        save(tmp_path / f"swapped/{name}.png", 3 - seed)
    straight, swapped = (
        of_folder(tmp_path / one, DATA, store, layout) for one in ("straight", "swapped")
    )
    assert straight.ids == swapped.ids
    assert straight.digest != swapped.digest
    plain = of_train(store).digest
    store.mapping = DATA.model_copy(update={"bit_depth": 12}).reading.lines
    assert of_train(store).digest != plain


def test_what_cannot_be_used_is_refused_by_name(
    layout: Layout, store: PackedStore, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(SegopsError, match=r"pretrain\.images: .*folder: no such directory"):
        of_folder(folder, DATA, store, layout)
    folder.mkdir()
    with pytest.raises(SegopsError, match=r"pretrain\.images: .*folder: holds no file"):
        of_folder(folder, DATA, store, layout)
    shutil.copy(layout.image_path(layout.ids("val")[0]), folder)
    with pytest.raises(SegopsError, match="all 1 images are those of val or test"):
        of_folder(folder, DATA, store, layout)
    for name in ("torn.jpg", "torn too.jpg"):
        (folder / name).write_bytes(b"\xff\xd8\xff\xe0 torn")
    with pytest.raises(SegopsError, match=r"(?s)torn too\.jpg.*torn\.jpg"):
        of_folder(folder, DATA, store, layout)
    bands = DataParams(classes="voc", channels=3, bands=("Depth",))
    with pytest.raises(SegopsError, match=r"data\.bands"):
        of_folder(folder, bands, store, layout)


def test_a_crop_beyond_its_image_is_void_and_masks_are_not_read(store: PackedStore) -> None:
    images = of_train(store)
    assert images.ids == store.ids("train")
    policy = build_policy(AugmentParams(crop=(96, 96), scale=ScaleParams(p=0)))
    crop, mask = CropDataset(images.source, images.ids, policy, 0)[0, 0]
    assert crop.shape == (3, 96, 96)
    assert sorted(np.unique(mask)) == [0, VOID]
