"""Files of several bands: what another library wrote is read as stored, and all else is refused.

tifffile wrote the files in ``tiff/``; :func:`written` is the formula of their pixels.
"""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segops.runtime.bands import (
    decode_bands,
    decode_consumer_bands,
    extent,
    false_colour,
    upright,
)
from segops.runtime.errors import SegopsError
from segops.runtime.images import PHOTOGRAPH_FORMATS

FILES = Path(__file__).with_name("tiff")
FORMATS = PHOTOGRAPH_FORMATS
INTACT = {
    "raw_2": 2,
    "packbits_4": 4,
    "lzw_tiles_5": 5,
    "bigtiff_6": 6,
    "deflate_planes_7": 7,
    "big_endian_16": 16,
}
Pixels = NDArray[np.uint8]


def content(name: str) -> bytes:
    return (FILES / f"{name}.tif").read_bytes()


def written(channels: int) -> Pixels:
    y, x, band = np.indices((21, 37, channels))
    return ((3 * y + 5 * x * (band + 1) + 40 * band) % 256).astype(np.uint8)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "channels"), INTACT.items())
def test_every_band_comes_out_as_tifffile_wrote_it(name: str, channels: int) -> None:
    pixels, turned = decode_bands(content(name), name, channels, FORMATS)
    np.testing.assert_array_equal(pixels, written(channels))
    assert turned == 1
    assert extent(FILES / f"{name}.tif") == (37, 21)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGBA", 4)])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_bands_of_pillows_modes_stay_as_they_are(mode: str, channels: int, form: str) -> None:
    pixels = written(channels)
    image = Image.fromarray(pixels if channels > 1 else pixels[..., 0], mode)
    found, _ = decode_bands(saved(image, form), "image", channels, FORMATS)
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("given", "channels", "words"),
    [
        (content("raw_2"), 4, r"2 bands; expected 4\. Give a file with all"),
        (content("lzw_tiles_5"), 1, r"5 bands; expected 1\."),
        (content("sixteen_bits_4"), 4, r"16 bits a band, and nothing says .* Set `data.bit_depth`"),
        (content("two_pictures_4"), 4, r"holds several pictures; expected one"),
        (saved(Image.new("RGB", (4, 4))), 4, r"3 bands; expected 4"),
        (saved(Image.new("P", (4, 4))), 1, r"image of mode P; expected 1 band of 8 or 16 bits"),
        (saved(Image.new("RGB", (16, 16)), "TIFF", compression="jpeg"), 3, "compression 7"),
        (b"II*\0" + b"\xff" * 40, 4, "not decodable: its tags are damaged"),
        (saved(Image.new("CMYK", (4, 4)), "JPEG"), 4, r"image of mode CMYK; expected 4 bands"),
        (b"text", 4, "not decodable"),
    ],
)
def test_other_files_are_refused(given: bytes, channels: int, words: str) -> None:
    with pytest.raises(SegopsError, match=f"^some.tif: .*{words}"):
        decode_bands(given, "some.tif", channels, FORMATS)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (273, 9, struct.pack("<i", -8)),
        (273, 11, struct.pack("<f", 8.5)),
        (273, 2, b"8\0\0\0"),
        (256, 9, struct.pack("<i", -37)),
        (317, 2, b"two\0"),
    ],
)
def test_tags_of_other_kinds_are_damage(tag: int, kind: int, value: bytes) -> None:
    """Each tag of a file with one strip is replaced by one that no writer makes."""
    given = bytearray(saved(Image.new("RGBA", (37, 21)), "TIFF", tiffinfo={317: 1}))
    place = int.from_bytes(given[4:8], "little") + 2
    while int.from_bytes(given[place : place + 2], "little") != tag:
        place += 12
    count = len(value) if kind == 2 else 1
    given[place + 2 : place + 12] = struct.pack("<HI", kind, count) + value
    with pytest.raises(SegopsError, match=r"^some\.tif: not decodable: its tags are damaged"):
        decode_bands(bytes(given), "some.tif", 4, FORMATS)


@pytest.mark.parametrize("name", INTACT)
def test_a_file_that_ends_early_is_refused(name: str) -> None:
    whole = content(name)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(SegopsError, match="not decodable"):
            decode_bands(whole[: int(share * len(whole))], name, INTACT[name], FORMATS)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(SegopsError, match=r"37 x 21 pixels, 777 in all; expected at most 776"):
        decode_bands(content("lzw_tiles_5"), "some.tif", 5, FORMATS, 776)
    assert decode_bands(content("lzw_tiles_5"), "some.tif", 5, FORMATS, 777)[0].shape == (21, 37, 5)


def test_sixteen_bits_are_scaled() -> None:
    given = content("sixteen_bits_4")
    found, _ = decode_bands(given, "some.tif", 4, FORMATS, bit_depth=9)
    np.testing.assert_array_equal(found, written(4) >> 1)
    values = (83 * np.arange(21 * 37, dtype=np.uint16)).reshape(21, 37)
    little, big = Image.fromarray(values), Image.frombytes("I;16B", (37, 21), values.astype(">u2"))
    differences = {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
    for file in (
        saved(little),
        saved(little, "TIFF", **differences),
        saved(big, "TIFF"),
        saved(little, "TIFF", compression="tiff_adobe_deflate"),
    ):
        found, _ = decode_bands(file, "Depth/a.png", 1, FORMATS, bit_depth=16)
        np.testing.assert_array_equal(found[..., 0], values >> 8)
        with pytest.raises(SegopsError, match=r"holds the value 64408, which needs 16 bits"):
            decode_bands(file, "Depth/a.png", 1, FORMATS, bit_depth=12)
        with pytest.raises(SegopsError, match=r"Set `data\.bit_depth`"):
            decode_bands(file, "Depth/a.png", 1, FORMATS)


@pytest.mark.parametrize("turned", range(1, 9))
def test_orientation_turns_bands_as_pillow_turns_photographs(turned: int) -> None:
    pixels = written(4)
    image = Image.fromarray(pixels, "RGBA")
    image.getexif()[0x0112] = turned
    for form in ("PNG", "TIFF"):
        file = saved(image, form, exif=image.getexif())
        found = decode_consumer_bands(file, "image", None, 4, None)
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(upright(pixels, turned), expected)


def test_three_channels_are_any_photograph_as_rgb() -> None:
    grey = Image.fromarray(written(1)[..., 0])
    found = decode_consumer_bands(saved(grey), "image", None, 3, None)
    np.testing.assert_array_equal(found, np.repeat(written(1), 3, axis=2))


def test_bands_that_rgb_is_not_made_of_are_called_so() -> None:
    with pytest.raises(SegopsError, match=r"not those of RGB or greyscale. Set `data.channels`"):
        decode_consumer_bands(content("lzw_tiles_5"), "image", None, 3, None)


def test_false_colour_is_the_first_three_channels_or_the_first_of_two() -> None:
    rgb, five, two = written(3), written(5), written(2)
    assert false_colour(rgb) is rgb
    np.testing.assert_array_equal(false_colour(five), five[..., :3])
    np.testing.assert_array_equal(false_colour(two), two[..., [0, 0, 0]])
    assert torch.equal(false_colour(torch.from_numpy(five)), torch.from_numpy(five[..., :3]))


def test_what_is_no_image_has_no_extent(tmp_path: Path) -> None:
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    assert extent(tmp_path / "damaged.tif") is None
    assert extent(tmp_path / "absent.tif") is None
