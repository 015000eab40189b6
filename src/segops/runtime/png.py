"""Finds PNGs whose pixel data end early, which Pillow decodes without an error."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image, PngImagePlugin

HEADER = 33
"""Bytes of the signature and of the chunk that holds the size."""
BIT_DEPTH = 24
"""Offset of the bit depth in a file: signature (8), chunk head (8), width (4), height (4)."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values a pixel by a PNG's colour type."""

_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""The passes of an interlaced PNG: first column and row, steps across and down."""


def header_size(start: bytes) -> tuple[int, int] | None:
    """Width and height by the first `HEADER` bytes of a PNG; None where they are no sound ones."""
    if start[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or len(start) < HEADER:
        return None
    width, height, checksum = struct.unpack_from(">II5xI", start, 16)
    return (width, height) if zlib.crc32(start[12:29]) == checksum else None


def verify(image: Image.Image) -> None:
    """Check the checksums of a PNG that is open and not decoded yet, as Pillow's ``verify`` does.

    That one closes the image, which would have to be opened twice.

    Raises:
        Exception: Of Pillow's, where one is wrong or the file ends early.
    """
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(image.tile[0].offset - 8)  # where the first chunk of pixels begins
    PngImagePlugin.ChunkStream(image.fp).verify()
    image.fp.seek(place)


def unwritten(mode: str, width: int, height: int) -> Image.Image:
    """An image to decode a PNG into: rows of such pixels are rare, so that what is missing shows.

    Pillow decodes into zeros, and a mask's last row is often zero.
    """
    return Image.new(mode, (width, height), 254)


def lacks_rows(image: Image.Image, content: bytes) -> bool:
    """Whether the pixel data of a PNG, decoded into :func:`unwritten` pixels, end early."""
    width, height = image.size
    depth, color, interlaced = content[BIT_DEPTH], content[25], content[28]
    last = image.crop((0, height - 1, width, height)).tobytes()
    if not interlaced and last != unwritten(image.mode, width, 1).tobytes():
        return False
    wanted = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            wanted += rows * (1 + (columns * depth * _PNG_CHANNELS[color] + 7) // 8)
    inflater = zlib.decompressobj()
    for data in _png_data(content):
        while data and wanted > 0:
            wanted -= len(inflater.decompress(data, 1 << 20))
            data = inflater.unconsumed_tail
    return wanted > 0


def _png_data(content: bytes) -> Iterator[bytes]:
    """The compressed pixel data of a PNG, chunk by chunk."""
    place = 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        if content[place + 4 : place + 8] == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += length + 12
