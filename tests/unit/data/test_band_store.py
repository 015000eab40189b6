"""Data sets of other than three channels: facts, hashes, the store and its statistics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.quality.facts import data_hash, scan
from segops.runtime.classes import VOID
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
    looks = scan(depth)["perceptual_hash"]
    assert looks.notna().all()
    assert scan(one_file)["perceptual_hash"].equals(looks)
    shutil.copy(depth.image_path("val0"), depth.image_path("val1"))
    first, second = (depth.band_paths(image_id)[0] for image_id in ("val0", "val1"))
    band = np.array(Image.open(first))
    Image.fromarray(band).save(second, compress_level=0)
    twins = scan(depth)["image_pixels"].dropna()
    assert first.read_bytes() != second.read_bytes()
    assert (len(twins), twins.nunique()) == (2, 1)
    Image.fromarray(band ^ 1).save(second)
    assert scan(depth)["image_pixels"].nunique() == 2


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


def test_bands_are_never_read_from_a_lossy_file(depth: Layout) -> None:
    layout = Layout(depth.root, Reading(bands=Bands(4)))
    content = BytesIO()
    Image.new("RGBA", (16, 16)).save(content, "WEBP")
    layout.image_path("val0").write_bytes(content.getvalue())
    assert "expected PNG, TIFF" in scan(layout).set_index("image_id").loc["val0", "image_error"]


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
