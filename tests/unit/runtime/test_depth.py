"""Photographs of 16 bits a channel are scaled as `data.bit_depth` says, or refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.errors import SegopsError
from segops.runtime.images import Photographs, decode_consumer_image, decode_image, load_photograph
from segops.runtime.masks import decode_mask
from segops.runtime.rgb import orientation

TWELVE = Photographs(bit_depth=12)
VALUES = np.random.default_rng(3).integers(0, 4096, (7, 9, 4), dtype=np.uint16)


def png(values: NDArray[np.uint16], *, interlaced: bool = False) -> bytes:
    """A PNG of 16 bits a channel, (H, W, 1, 3 or 4)."""
    height, width, channels = values.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    passes = [values]
    if interlaced:
        grid = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
        passes = [values[y::dy, x::dx] for y, x, dy, dx in (*grid, (1, 0, 2, 1))]
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part
    )
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(values: NDArray[np.uint16], order: str, orientation: int = 1) -> bytes:
    """An uncompressed TIFF of 16 bits, (H, W, 3), in an order of bytes, `<` or `>`."""
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    count = 10
    after = 8 + 2 + 12 * count + 4
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, after), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, after + 2 * channels), (274, 3, 1, orientation),
        (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    entries = b""
    for tag, kind, number, value in tags:
        short = kind == 3 and number == 1
        packed = struct.pack(
            f"{order}HH" if short else f"{order}I", *((value, 0) if short else (value,))
        )
        entries += struct.pack(f"{order}HHI", tag, kind, number) + packed
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    sizes = struct.pack(f"{order}{channels}H", *[16] * channels)
    return b"".join(
        (head, struct.pack(f"{order}H", count), entries, struct.pack(f"{order}I", 0), sizes, pixels)
    )


def compressed(content: bytes) -> bytes:
    """A TIFF as the TIFF library reads it, in the byte order of this machine."""
    cv2 = pytest.importorskip("cv2")
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    done, encoded = cv2.imencode(".tif", values, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    return bytes(encoded)


COLOURED = {
    "png": png(VALUES[..., :3]),
    "interlaced": png(VALUES[..., :3], interlaced=True),
    "alpha": png(VALUES),
    "little": tiff(VALUES[..., :3], "<"),
    "big": tiff(VALUES[..., :3], ">"),
    "lzw": compressed(tiff(VALUES[..., :3], "<")),
}


@pytest.mark.parametrize("content", COLOURED.values(), ids=COLOURED)
def test_twelve_bits_of_colour_are_scaled_alike_in_training_and_prediction(content: bytes) -> None:
    expected = (VALUES[..., :3] >> 4).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(content, "a", TWELVE), expected)
    np.testing.assert_array_equal(decode_consumer_image(content, "a", None, 12), expected)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_grey_is_scaled_by_the_bits_that_are_used(bits: int) -> None:
    values = np.arange(63, dtype=np.uint16).reshape(7, 9, 1) * (((1 << bits) - 1) // 62)
    content = png(values)
    expected = np.repeat((values >> (bits - 8)).astype(np.uint8), 3, axis=2)
    np.testing.assert_array_equal(decode_image(content, "a", Photographs(bit_depth=bits)), expected)
    np.testing.assert_array_equal(decode_consumer_image(content, "a", None, bits), expected)


def predicted(content: bytes, name: str) -> NDArray[np.uint8]:
    return decode_consumer_image(content, name, None, None)


@pytest.mark.parametrize("decode", [decode_image, predicted])
def test_without_bit_depth_grey_and_almost_black_colours_are_refused(
    decode: Callable[[bytes, str], NDArray[np.uint8]],
) -> None:
    with pytest.raises(SegopsError, match=r"16 bits of greyscale.*data\.bit_depth"):
        decode(png(VALUES[..., :1]), "a")
    with pytest.raises(SegopsError, match=r"at most 12 are used.*data\.bit_depth"):
        decode(png(VALUES[..., :3]), "a")
    wide = VALUES[..., :3] << 4
    np.testing.assert_array_equal(decode(png(wide), "a"), wide >> 8)
    assert not decode(png(np.zeros_like(wide)), "a").any()


def test_a_value_of_more_bits_than_said_is_refused() -> None:
    with pytest.raises(SegopsError, match=r"value 4096, which needs 13 bits.*bit_depth` is 12"):
        decode_image(png(np.full((2, 2, 3), 4096, np.uint16)), "a", TWELVE)


def test_eight_bits_stay_as_they_are() -> None:
    pixels = VALUES[..., :3].astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    np.testing.assert_array_equal(decode_image(stream.getvalue(), "a", TWELVE), pixels)


def test_the_orientation_outlives_the_scaling() -> None:
    content = tiff(VALUES[..., :3], "<", orientation=3)
    assert orientation(load_photograph(content, "a", TWELVE)) == orientation(
        load_photograph(content, "a", Photographs(bit_depth=16))
    )


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_the_bound_of_photographs_and_masks_names_its_parameter(
    decode: Callable[[bytes, str, Photographs], NDArray[np.uint8]],
) -> None:
    stream = BytesIO()
    Image.new("L", (9, 7)).save(stream, "PNG")
    assert decode(stream.getvalue(), "a", Photographs(63)).shape[:2] == (7, 9)
    with pytest.raises(SegopsError, match=r"9 x 7 pixels.*at most 62 \(`data\.max_pixels`\)"):
        decode(stream.getvalue(), "a", Photographs(62))
