"""Masks of every mode, damaged ones included."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.classes import VOID, palette
from segops.runtime.errors import SegopsError
from segops.runtime.masks import decode_mask, encode_mask, read_mask, write_mask

ALL_IDS = np.arange(256, dtype=np.uint8).reshape(8, 32)
MASKS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24))


def png(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def raw_png(mask: NDArray[np.uint8], depth: int, colour_type: int) -> bytes:
    """A PNG of one channel at a bit depth that Pillow does not write by itself."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = mask.shape
    lines = b""
    for row in mask:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        lines += b"\0" + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    colours = chunk(b"PLTE", palette()[: 1 << depth].tobytes()) if colour_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + colours
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@given(MASKS)
def test_what_is_encoded_is_decoded(mask: NDArray[np.uint8]) -> None:
    decoded = decode_mask(encode_mask(mask), "mask.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_encoded_mask_is_a_palette_png_with_voc_colours() -> None:
    with Image.open(BytesIO(encode_mask(ALL_IDS))) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.array(image.convert("RGB")), palette()[ALL_IDS])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@given(mask=MASKS)
def test_voc_colours_are_decoded_exactly(mode: str, mask: NDArray[np.uint8]) -> None:
    content = png(Image.fromarray(palette()[mask]).convert(mode))
    np.testing.assert_array_equal(decode_mask(content, "mask.png"), mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_voc_colour_is_decoded(mode: str) -> None:
    content = png(Image.fromarray(palette()[ALL_IDS]).convert(mode))
    np.testing.assert_array_equal(decode_mask(content, "mask.png"), ALL_IDS)


def test_palette_masks_hold_ids_whatever_their_colours_are() -> None:
    image = Image.fromarray(ALL_IDS)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    np.testing.assert_array_equal(decode_mask(png(image), "mask.png"), ALL_IDS)


def test_palette_masks_with_transparency_hold_ids() -> None:
    image = Image.fromarray(ALL_IDS)
    image.putpalette(palette().tobytes())
    content = png(image, transparency=0)
    np.testing.assert_array_equal(decode_mask(content, "mask.png"), ALL_IDS)


def test_grey_masks_hold_ids() -> None:
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(ALL_IDS)), "m.png"), ALL_IDS)


@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("depth", [2, 4])
def test_ids_stored_in_few_bits_are_not_stretched(depth: int, colour_type: int) -> None:
    mask = np.random.default_rng(0).integers(0, 1 << depth, (5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(raw_png(mask, depth, colour_type), "m.png"), mask)


def test_one_bit_palette_masks_hold_ids() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(raw_png(mask, 1, 3), "m.png"), mask)


@given(
    mask=MASKS,
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    position=st.tuples(st.integers(0, 23), st.integers(0, 23)),
)
@settings(max_examples=200)
def test_another_colour_is_named_with_file_and_pixel(
    mask: NDArray[np.uint8], colour: tuple[int, int, int], position: tuple[int, int]
) -> None:
    y, x = position[0] % mask.shape[0], position[1] % mask.shape[1]
    pixels = palette()[mask]
    pixels[y, x] = colour
    content = png(Image.fromarray(pixels))
    if (palette() == colour).all(axis=1).any():
        decode_mask(content, "some.png")
        return
    with pytest.raises(SegopsError) as caught:
        decode_mask(content, "some.png")
    assert f"some.png: colour {colour} at x={x}, y={y} " in str(caught.value)


def test_the_first_of_several_wrong_colours_is_named_and_all_are_counted() -> None:
    pixels = palette()[np.zeros((4, 4), dtype=np.uint8)]
    pixels[1, 2] = (1, 2, 3)
    pixels[3, 0] = (9, 9, 9)
    with pytest.raises(SegopsError, match=r"colour \(1, 2, 3\) at x=2, y=1 .*\(2 pixel"):
        decode_mask(png(Image.fromarray(pixels)), "mask.png")


def test_a_mask_that_is_not_opaque_is_refused() -> None:
    pixels = np.dstack([palette()[ALL_IDS], np.full(ALL_IDS.shape, 255, dtype=np.uint8)])
    pixels[3, 5, 3] = 254
    with pytest.raises(SegopsError, match=r"mask\.png: alpha 254 at x=5, y=3"):
        decode_mask(png(Image.fromarray(pixels)), "mask.png")


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.new("1", (4, 4)), "1"),
        (Image.new("LA", (4, 4)), "LA"),
        (Image.new("I;16", (4, 4)), "I;16"),
    ],
)
def test_other_modes_are_refused_by_name(image: Image.Image, mode: str) -> None:
    with pytest.raises(SegopsError, match=rf"mask\.png: mask of mode {mode} .*expected P or L"):
        decode_mask(png(image), "mask.png")


def test_sixteen_bit_colours_are_refused() -> None:
    # Pillow would cut them to 8 bits and call the mode RGB.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" + b"\x80\x01" + b"\0" * 4))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(SegopsError, match="mode RGB with 16 bits"):
        decode_mask(content, "mask.png")


@pytest.mark.parametrize(("fmt", "mode"), [("JPEG", "L"), ("GIF", "P"), ("TIFF", "CMYK")])
def test_other_formats_are_refused(fmt: str, mode: str) -> None:
    buffer = BytesIO()
    Image.new(mode, (8, 8)).save(buffer, fmt)
    with pytest.raises(SegopsError, match=rf"mask\.png: not decodable: a {fmt} file; expected PNG"):
        decode_mask(buffer.getvalue(), "mask.png")


def test_every_truncation_is_refused() -> None:
    content = encode_mask(ALL_IDS)
    for length in range(len(content) - 4):  # The last four sum up no pixels.
        with pytest.raises(SegopsError, match=r"^mask\.png: not decodable"):
            decode_mask(content[:length], "mask.png")


@given(st.data())
@settings(max_examples=300)
def test_a_flipped_bit_never_changes_ids_unnoticed(data: st.DataObject) -> None:
    mask = np.random.default_rng(1).integers(0, 256, (9, 11), dtype=np.uint8)
    content = bytearray(encode_mask(mask))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    try:
        decoded = decode_mask(bytes(content), "mask.png")
    except SegopsError:
        return
    np.testing.assert_array_equal(decoded, mask)


def test_message_of_a_damaged_file_is_the_same_every_time() -> None:
    messages = set()
    for _ in range(3):
        with pytest.raises(SegopsError) as caught:
            decode_mask(b"this is no image", "mask.png")
        messages.add(str(caught.value))
    assert messages == {
        "mask.png: not decodable: not an image file; expected PNG. "
        "Put an image of such a format in its place."
    }


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_mask(path, ALL_IDS)
    np.testing.assert_array_equal(read_mask(path), ALL_IDS)
    assert read_mask(path)[-1, -1] == VOID
    with pytest.raises(SegopsError, match=r"absent\.png: no such file"):
        read_mask(tmp_path / "absent.png")
    with pytest.raises(SegopsError, match="not a file"):
        read_mask(tmp_path)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((2, 2), dtype=np.int64),
        np.zeros((2, 2, 1), dtype=np.uint8),
        np.zeros((0, 2), dtype=np.uint8),
    ],
)
def test_what_is_no_mask_is_not_encoded(mask: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected a uint8 mask"):
        encode_mask(mask)


def test_decoded_mask_can_be_written_to() -> None:
    for content in (
        encode_mask(ALL_IDS),
        png(Image.fromarray(ALL_IDS)),
        png(Image.fromarray(palette()[ALL_IDS])),
    ):
        mask = decode_mask(content, "mask.png")
        mask[0, 0] = 7
        assert mask.flags["C_CONTIGUOUS"]


def test_a_mask_of_several_pictures_is_refused() -> None:
    first, second = (Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (0, 1))
    stream = BytesIO()
    first.save(stream, "PNG", save_all=True, append_images=[second])
    with pytest.raises(SegopsError, match=r"a\.png: holds several pictures; expected one"):
        decode_mask(stream.getvalue(), "a.png")
