"""Photographs as consumers send them: 16 bits, CMYK, turned, far too large, not what they say."""

from __future__ import annotations

import struct
import time
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segops.runtime import rgb
from segops.runtime.errors import SegopsError
from segops.runtime.images import Photographs, decode_consumer_image, decode_image, image_size
from segops.runtime.masks import decode_mask
from tests.support.large_image import Peak

ORIENTATION = 0x0112
LIMIT = 200_000_000
PASSES = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def picture(height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_file(header: bytes, data: bytes) -> bytes:
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png(values: NDArray[np.uint16], size: tuple[int, int] | None = None) -> bytes:
    """A PNG of 16 bits a channel, (H, W, 1 to 4); the header may say another size."""
    height, width, channels = values.shape
    width, height = size or (width, height)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_file(header, zlib.compress(rows))


def interlaced(image: NDArray[np.uint8], missing: int = 0) -> bytes:
    """A PNG in the seven passes of Adam7; the last may lack some rows."""
    height, width = image.shape[:2]
    rows: list[bytes] = []
    for top, left, down, across in PASSES:
        part = image[top::down, left::across]
        rows += [b"\0" + row.tobytes() for row in part if row.size]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    data = zlib.compress(b"".join(rows[: len(rows) - missing]))
    return png_file(header, data)


def consumer(content: bytes, max_pixels: int = LIMIT) -> NDArray[np.uint8]:
    return decode_consumer_image(content, "a", max_pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_their_upper_eight_whatever_the_channels(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (6, 9, channels), dtype=np.uint16)
    colors = values[..., :3] if channels > 2 else values[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(consumer(png(values)), colors >> 8)


@pytest.mark.parametrize(("fmt", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_sixteen_bits_of_grey_in_either_order_of_bytes(fmt: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (6, 9), dtype=np.uint16)
    found = consumer(encoded(Image.fromarray(values.astype(dtype)), fmt))
    np.testing.assert_array_equal(found, (values >> 8)[..., None].repeat(3, axis=2))


def test_the_greatest_and_the_least_of_sixteen_bits_are_white_and_black() -> None:
    values = np.array([[[0], [65535]]], dtype=np.uint16)
    assert consumer(png(values)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit integers"), ("F", "floating point")])
def test_deeper_images_are_refused_by_name(mode: str, words: str) -> None:
    content = encoded(Image.new(mode, (4, 4)), "TIFF")
    with pytest.raises(SegopsError, match=rf"a: image of mode {mode}, {words}.*Convert it to RGB"):
        consumer(content)


def test_inverted_cmyk_of_adobe_has_the_colours_that_others_see() -> None:
    content = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    stored = Image.open(BytesIO(content))
    assert stored.mode == "CMYK"
    found = consumer(content)
    assert np.abs(found.astype(int) - picture()).mean() < 6
    other = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(found.astype(int) - other).max() <= 3


def test_cmyk_that_is_not_inverted() -> None:
    content = encoded(Image.new("CMYK", (3, 2), (255, 0, 0, 0)), "TIFF")
    assert (consumer(content) == [0, 255, 255]).all()  # all cyan, no black


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_orientation_is_turned_upright(mode: str) -> None:
    image = Image.fromarray(picture())
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) << 8)
    else:
        image = image.convert(mode)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        content = encoded(image, "PNG", exif=exif)
        turned = ImageOps.exif_transpose(Image.open(BytesIO(content)))
        if mode == "I;16":
            turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
        np.testing.assert_array_equal(consumer(content), np.array(turned.convert("RGB")))


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_means_nothing_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(Image.fromarray(picture()), "PNG", exif=exif)
    np.testing.assert_array_equal(consumer(content), picture())


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_large_image_is_converted_strip_by_strip(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(picture()).convert("P" if mode == "PA" else mode)
    if mode == "PA":
        image = image.convert("PA")
    whole = rgb.to_rgb(image)
    monkeypatch.setattr(rgb, "_STRIP", 200)  # five rows
    np.testing.assert_array_equal(rgb.to_rgb(image), whole)


def test_a_bomb_is_refused_by_its_header_before_a_pixel_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)))
    content = png_file(header, data)
    assert len(content) < 100_000
    began = time.process_time()
    with Peak() as peak, pytest.raises(SegopsError) as error:
        consumer(content)
    assert str(error.value) == (
        "a: 20000 x 20000 pixels, 400,000,000 in all; expected at most 200,000,000 "
        "(`predict.max_pixels`). Make it smaller, or raise the limit in params.yaml and package "
        "the model anew."
    )
    assert time.process_time() - began < 0.5
    assert peak.growth < 20 << 20
    jpeg = encoded(Image.new("L", (2000, 1500)), "JPEG")
    with pytest.raises(SegopsError, match=r"2000 x 1500 pixels, 3,000,000 in all"):
        consumer(jpeg, 2_999_999)
    assert consumer(jpeg, 3_000_000).shape == (1500, 2000, 3)


FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_limit_of_ones_own_replaces_pillows(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.fromarray(picture()), fmt)
    expected = np.array(Image.open(BytesIO(content)).convert("RGB"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # of 960: Pillow would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(consumer(content, 960), expected)
        with pytest.raises(SegopsError, match="40 x 24 pixels"):
            consumer(content, 959)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse
    if fmt != "WEBP":  # Its reader asks Pillow's limit of 179 million before anyone can tell it.
        np.testing.assert_array_equal(consumer(content, 960), expected)


def test_an_image_of_a_data_set_has_its_own_limit() -> None:
    content = encoded(Image.fromarray(picture()), "JPEG")
    assert Photographs().max_pixels == 2 * Image.MAX_IMAGE_PIXELS
    assert decode_image(content, "a", Photographs(960)).shape == (24, 40, 3)
    words = r"^a: 40 x 24 pixels, 960 in all; expected at most 959 \(`data\.max_pixels`\)\. Make it"
    with pytest.raises(SegopsError, match=words):
        decode_image(content, "a", Photographs(959))


def test_a_size_is_told_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for fmt in ("JPEG", "PNG", "TIFF", "BMP"):
        path = tmp_path / "image"
        path.write_bytes(encoded(Image.fromarray(picture()), fmt))
        assert image_size(path) == (40, 24)


@pytest.mark.parametrize("size", [(9000, 9000), (41, 24), (40, 25), (40, 2400)])
def test_a_png_whose_header_promises_more_than_there_is(size: tuple[int, int]) -> None:
    content = png(np.full((24, 40, 3), 30_000, dtype=np.uint16), size)
    with pytest.raises(SegopsError, match=r"^a: not decodable: .*Replace the file\.$"):
        consumer(content)


@pytest.mark.parametrize("value", [0, 1, 254, 255])
@pytest.mark.parametrize(
    ("depth", "color"), [(1, 0), (2, 0), (8, 0), (8, 2), (8, 3), (8, 4), (8, 6), (16, 2), (16, 6)]
)
def test_a_png_that_lacks_rows_is_not_filled(value: int, depth: int, color: int) -> None:
    bits = 3 * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    rows = zlib.compress((b"\0" + bytes([value]) * -(-bits // 8)) * 2)
    for height in (2, 3):
        content = png_file(struct.pack(">IIBBBBB", 3, height, depth, color, 0, 0, 0), rows)
        if height == 2:
            assert consumer(content).shape == (2, 3, 3)
        else:
            with pytest.raises(SegopsError, match="fewer rows of pixels than the header says"):
                consumer(content)


def test_a_mask_that_lacks_rows_is_not_filled_with_background() -> None:
    rows = zlib.compress(b"\0\x01\x01\x01" * 2)
    for height, refused in ((2, False), (3, True)):
        content = png_file(struct.pack(">IIBBBBB", 3, height, 8, 0, 0, 0, 0), rows)
        if refused:
            with pytest.raises(SegopsError, match="fewer rows of pixels than the header says"):
                decode_mask(content, "mask")
        else:
            assert (decode_mask(content, "mask") == 1).all()


def test_a_jpeg_whose_header_promises_more_than_there_is() -> None:
    content = bytearray(encoded(Image.fromarray(picture()), "JPEG")[:-2])  # cut off: no end marker
    frame = content.index(b"\xff\xc0")  # marker, length, bits, height, width
    for height, words in (
        (9000, "not decodable: image file is truncated"),
        (65_000, r"40 x 65000 pixels, 2,600,000 in all; expected at most 1,000,000"),
    ):
        content[frame + 5 : frame + 7] = struct.pack(">H", height)
        with pytest.raises(SegopsError, match=f"^a: {words}"):
            consumer(bytes(content), 1_000_000)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (33, 40)])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_black_or_interlaced_png_lacks_nothing(size: tuple[int, int], channels: int) -> None:
    assert not consumer(png(np.zeros((*size, channels), dtype=np.uint16))).any()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = interlaced(image)
    assert content[28] == 1
    np.testing.assert_array_equal(consumer(content), image)
    words = "image file is truncated" if size == (1, 1) else "fewer rows of pixels than the header"
    with pytest.raises(SegopsError, match=f"^a: not decodable: {words}"):
        consumer(interlaced(image, missing=1))


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated_files_are_refused_under_a_limit_too(fmt: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), fmt)
    for length in range(0, len(content) - 4, 97):
        with pytest.raises(SegopsError, match=r"^a: not decodable"):
            consumer(content[:length])


def test_a_damaged_png_is_refused_under_a_limit_too() -> None:
    content = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    content[content.index(b"IDAT") + 12] ^= 0xFF
    with pytest.raises(SegopsError, match=r"^a: not decodable"):
        consumer(bytes(content))
