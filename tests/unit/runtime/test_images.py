"""Photographs of every mode, damaged ones included."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.errors import SegopsError
from segops.runtime.images import decode_consumer_image, decode_image, image_size, read_image

ORIENTATION = 0x0112


def photograph(height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    across = np.linspace(0, 200, width)[None, :, None]
    down = np.linspace(0, 50, height)[:, None, None]
    return (across + down + np.array([0, 2, 4])).astype(np.uint8)


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["TIFF", "WEBP"])
def test_photographs_with_several_pictures_are_refused(fmt: str) -> None:
    frames = [Image.new("RGB", (8, 6), shade) for shade in ("red", "blue")]
    stream = BytesIO()
    frames[0].save(stream, fmt, save_all=True, append_images=frames[1:])
    with pytest.raises(SegopsError, match=r"^a\.tif: holds several pictures; expected one"):
        decode_image(stream.getvalue(), "a.tif")


@pytest.mark.parametrize("following", [3, 1 << 20])
def test_a_damaged_second_picture_is_not_read(following: int) -> None:
    """Pillow raises TypeError and others when it counts the pictures of such a file."""
    content = bytearray(encoded(Image.new("RGB", (8, 6)), "TIFF"))
    (head,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, head)
    struct.pack_into("<I", content, head + 2 + 12 * tags, following)
    with pytest.raises(SegopsError, match=r"^a\.tif: holds several pictures; expected one"):
        decode_image(bytes(content), "a.tif")


def test_png_is_decoded_exactly() -> None:
    content = encoded(Image.fromarray(photograph()), "PNG")
    image = decode_consumer_image(content, "a.png")
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    image[0, 0] = 0
    np.testing.assert_array_equal(image[1:], photograph()[1:])


def test_jpeg_is_decoded_as_pillow_does() -> None:
    content = encoded(Image.fromarray(photograph()), "JPEG", quality=95)
    image = decode_image(content, "a.jpg")
    assert image.shape == (24, 40, 3)
    assert np.abs(image.astype(int) - photograph()).max() < 12


@pytest.mark.parametrize(
    ("mode", "fmt"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG")],
)
def test_other_modes_become_rgb(mode: str, fmt: str) -> None:
    image = Image.fromarray(photograph()).convert(mode)
    content = encoded(image, fmt)
    decoded = decode_consumer_image(content, "a")
    if fmt == "JPEG":
        np.testing.assert_array_equal(decode_image(content, "a"), decoded)
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.array(image.convert("RGB"))).mean() < 4


def test_palette_with_transparency_becomes_rgb_without_a_warning() -> None:
    image = Image.fromarray(photograph()).quantize(16)
    content = encoded(image, "PNG", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_consumer_image(content, "a.png")
    np.testing.assert_array_equal(decoded, np.array(image.convert("RGB")))


def test_orientation_is_applied_for_a_consumer_alone() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(Image.fromarray(photograph()), "JPEG", exif=exif, quality=95)
    stored = decode_image(content, "a.jpg")
    turned = decode_consumer_image(content, "a.jpg")
    assert stored.shape == (24, 40, 3)
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_truncated_files_are_refused(fmt: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), fmt)
    for length in range(0, len(content) - 4, 7):
        for decode in (decode_image, decode_consumer_image):
            with pytest.raises(SegopsError, match=r"^a\.jpg: not decodable"):
                decode(content[:length], "a.jpg")


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(SegopsError, match=r"a\.jpg: not decodable: not an image file"):
        decode_image(b"\0" * 100, "a.jpg")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(photograph()), "JPEG"))
    np.testing.assert_array_equal(read_image(path), decode_image(path.read_bytes(), "a.jpg"))
    assert image_size(path) == (40, 24)
    for read in (read_image, image_size):
        with pytest.raises(SegopsError, match=r"absent\.jpg: no such file"):
            read(tmp_path / "absent.jpg")


def test_size_needs_the_header_alone(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(photograph()), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content[:60])
    assert image_size(path) == (40, 24)
    path.write_bytes(content[:16] + b"\0\0\1\0" + content[20:])
    with pytest.raises(SegopsError, match=r"a\.png: not decodable: its header is damaged"):
        image_size(path)
    path.write_bytes(b"no header")
    with pytest.raises(SegopsError, match=r"a\.png: not decodable: not an image file"):
        image_size(path)
