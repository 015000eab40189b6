"""Data sets of other than three channels: facts, hashes, the store and its statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segops.data.store import STATISTICS, PackedStore, pack
from segops.files import read_json
from segops.quality.facts import data_hash, scan
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import Photographs
from segops.runtime.masks import encode_mask, read_mask
from segops.voc.bands import read_bands
from segops.voc.layout import Layout, open_layout
from segops.voc.reading import Bands, Reading
from segops.voc.use import use
from tests.support.band_data import CLASSES, IN_A_DIRECTORY, IN_ONE_FILE, write_band_data


def packed(layout: Layout, target: Path) -> PackedStore:
    pack(layout, target, CLASSES, expected_hash=data_hash(scan(layout), CLASSES), workers=2)
    return PackedStore(target)


@pytest.fixture
def depth(tmp_path: Path) -> Layout:
    return write_band_data(tmp_path / "voc", IN_A_DIRECTORY, train=3, val=2)


def test_one_file_and_a_further_directory_give_the_same_pixels(
    depth: Layout, tmp_path: Path
) -> None:
    mask_path = depth.mask_path("train0")
    mask = read_mask(mask_path)
    mask[:30] = VOID
    mask_path.write_bytes(encode_mask(mask))
    one_file = write_band_data(tmp_path / "one", IN_ONE_FILE, train=3, val=2)
    one_file.mask_path("train0").write_bytes(mask_path.read_bytes())
    stores = [packed(depth, tmp_path / "a"), packed(one_file, tmp_path / "b")]
    first, second = stores
    assert first.data_hash != second.data_hash
    for image_id in (*first.ids("train"), *first.ids("val")):
        np.testing.assert_array_equal(first.image(image_id), second.image(image_id))
        expected = np.asarray(Image.open(one_file.image_path(image_id)))
        np.testing.assert_array_equal(first.image(image_id), expected)
    train = first.ids("train")
    labelled = np.concatenate([first.image(one)[first.mask(one) != VOID] for one in train]) / 255
    for store in stores:
        assert store.channels == 4
        np.testing.assert_allclose(store.statistics.mean, labelled.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(store.statistics.std, labelled.std(axis=0), rtol=1e-9)
        assert store.statistics.fill == tuple(round(255 * one) for one in store.statistics.mean)
    assert read_json(tmp_path / "a/val/index.json")[STATISTICS] == {"channels": 4}


def test_a_store_of_rgb_is_as_before(tiny_voc: Path, tmp_path: Path) -> None:
    pack(open_layout(tiny_voc), tmp_path / "packed", VOC_CLASSES)
    index = read_json(tmp_path / "packed/train/index.json")
    assert set(index) == {"format", "classes", "images"}
    store = PackedStore(tmp_path / "packed")
    assert (store.channels, store.statistics.mean, store.statistics.fill) == (
        3,
        (),
        (124, 116, 104),
    )


def test_the_data_hash_covers_every_band_and_how_many_there_are(depth: Layout) -> None:
    before = data_hash(scan(depth), CLASSES)
    other_way = Layout(depth.root)
    assert data_hash(scan(other_way), CLASSES) != before
    path = depth.band_paths("val1")[0]
    band = np.array(Image.open(path))
    band[0, 0] ^= 1
    Image.fromarray(band).save(path)
    assert data_hash(scan(depth), CLASSES) != before


def test_equal_pixels_and_pictures_are_found_whatever_the_files(
    depth: Layout, tmp_path: Path
) -> None:
    one_file = write_band_data(tmp_path / "one", IN_ONE_FILE, train=3, val=2)
    hashes = ["image_pixels", "perceptual_hash"]
    facts = scan(depth)[hashes]
    assert facts.notna().all(axis=None)
    assert facts["image_pixels"].is_unique
    pd.testing.assert_frame_equal(scan(one_file)[hashes], facts)
    path = depth.band_paths("val1")[0]
    Image.fromarray(np.array(Image.open(path)) ^ 1).save(path)
    after = scan(depth)[hashes]
    assert after["perceptual_hash"].equals(facts["perceptual_hash"])
    assert (after["image_pixels"] != facts["image_pixels"]).sum() == 1


@pytest.mark.parametrize("bands", [IN_ONE_FILE, IN_A_DIRECTORY])
def test_the_bound_on_pixels_holds_for_bands(tmp_path: Path, bands: Bands) -> None:
    layout = write_band_data(tmp_path / "voc", bands, train=1, val=1)
    small = Layout(layout.root, Reading(Photographs(64 * 64 - 1), bands))
    words = r"64 x 64 pixels, 4,096 in all; expected at most 4,095 \(`data.max_pixels`\)"
    assert scan(small)["image_error"].str.contains(words).all()
    with pytest.raises(SegopsError, match=words):
        pack(small, tmp_path / "packed", CLASSES)


def test_a_band_of_sixteen_bits_is_scaled(depth: Layout) -> None:
    path = depth.band_paths("val1")[0]
    band = np.array(Image.open(path))
    Image.fromarray(band.astype(np.uint16) * 16).save(path)
    facts = scan(depth).set_index("image_id")
    assert "Set `data.bit_depth`" in facts.loc["val1", "image_error"]
    scaled = Layout(depth.root, Reading(Photographs(bit_depth=12), IN_A_DIRECTORY))
    np.testing.assert_array_equal(read_bands(scaled, "val1").pixels[..., 3], band)


def remove(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    Image.new("L", (8, 8)).save(path)


def colour(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove, "Depth/val0.png: no such file."),
        (shrink, "Depth/val0.png: 8 x 8 pixels, its photograph 64 x 64 pixels; expected the same."),
        (colour, "Depth/val0.png: 3 bands; expected 1."),
    ],
)
def test_a_bad_band_is_a_finding_and_stops_packing(
    depth: Layout, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(depth.band_paths("val0")[0])
    facts = scan(depth).set_index("image_id")
    assert facts.loc["val0", "image_error"].startswith(words)
    assert facts["image_error"].isna().sum() == len(facts) - 1
    with pytest.raises(SegopsError, match=words.partition(":")[0]):
        pack(depth, tmp_path / "packed", CLASSES)
    assert not (tmp_path / "packed").exists()


def test_photographs_of_other_channels_are_findings(depth: Layout) -> None:
    facts = scan(Layout(depth.root, Reading(bands=Bands(4))))
    assert set(facts["image_error"]) == {"3 bands; expected 4. Give a file with all of them."}


def test_a_missing_directory_is_said_at_once(tmp_path: Path, depth: Layout) -> None:
    with pytest.raises(SegopsError, match=r"Thermal: no such directory"):
        open_layout(depth.root, Reading(bands=Bands(directories=("Depth", "Thermal"))))


def test_use_copies_the_further_directories(depth: Layout, tmp_path: Path) -> None:
    depth.band_paths("val0")[0].rename(depth.root / "Depth/val0.PNG")
    copy = use(depth.root, tmp_path / "copy", reading=depth.reading)
    for image_id in ("train0", "val0"):
        assert [path.is_file() for path in copy.band_paths(image_id)] == [True]
    (depth.root / "Depth/val1.png").unlink()
    with pytest.raises(SegopsError, match=r"Depth/val1\.png: missing"):
        use(depth.root, tmp_path / "copy", reading=depth.reading)
