"""Images of other than three channels: decodes files of 1 to 16 bands, and shows them as RGB."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin as Tiff

from . import signatures
from .depth import scaled, stored_bits, to_eight_bits
from .errors import SegopsError
from .images import (
    CONSUMER_FORMATS,
    decode_consumer_image,
    load_image,
    lower_bytes,
    require_pixels,
    stored_size,
)
from .rgb import orientation

RGB = 3
"""Channels of a photograph unless a data set says otherwise."""

MOST_CHANNELS = 16

IMAGENET_MEAN_COLOR = (124, 116, 104)
"""Mean RGB of ImageNet, 255 * (0.485, 0.456, 0.406) rounded: about zero once normalised."""

_MODES = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Pillow's modes whose stored values are bands, and the number of bands."""

_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32946: "deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
}
"""Lossless compressions of TIFF, which do not depend on what the values mean."""

_ORIENTATION, _FILL_ORDER, _SAMPLE_FORMAT = 274, 266, 339
_LONG = 4
_SEPARATE = 2
_DIFFERENCES = 2


def channels_of(model: Mapping[str, Any]) -> int:
    """Channels of a model's images, by its ``model.json``; an older one says none and takes RGB."""
    return len(model.get("spec", {}).get("mean", ())) or RGB


def false_colour(image: Any) -> Any:
    """An image (..., C) as RGB (..., 3): its first three channels, or the first of two as grey.

    Takes arrays and tensors; an image of three channels is returned as it is.
    """
    channels = image.shape[-1]
    if channels == RGB:
        return image
    shown = image[..., :RGB] if channels > RGB else image[..., [0, 0, 0]]
    return np.ascontiguousarray(shown) if isinstance(shown, np.ndarray) else shown


def decode_consumer_bands(
    content: bytes, name: str, max_pixels: int | None, channels: int, bit_depth: int | None
) -> NDArray[np.uint8]:
    """Decode an image file for a model of `channels` channels, upright by its orientation.

    Other arguments are those of :func:`segops.runtime.images.decode_consumer_image`.

    Returns:
        uint8 (H, W, `channels`). For three channels as
        :func:`segops.runtime.images.decode_consumer_image`, which takes any photograph as RGB.

    Raises:
        SegopsError: As there, or as :func:`decode_bands`.
    """
    if channels == RGB:
        return decode_consumer_image(content, name, max_pixels, bit_depth)
    bands, turned = decode_bands(content, name, channels, CONSUMER_FORMATS, max_pixels, bit_depth)
    return upright(bands, turned)


def decode_bands(
    content: bytes,
    name: str,
    channels: int,
    formats: Sequence[str],
    max_pixels: int | None = None,
    bit_depth: int | None = None,
    key: str | None = None,
) -> tuple[NDArray[np.uint8], int]:
    """Decode a file of `channels` bands as stored: nothing is converted or dropped.

    Pillow reads at most four bands. The strips and tiles of a TIFF do not depend on what the values
    of a pixel mean, so a TIFF of C bands of B bytes in W columns is read as a grey one of C B W.

    Args:
        content: The file's bytes.
        name: Name of the file in error messages.
        channels: Bands that the file must have.
        formats: The accepted formats, of `CONSUMER_FORMATS`.
        max_pixels: As of :func:`segops.runtime.images.load_image`, like `key`.
        bit_depth: As of :class:`segops.runtime.images.Photographs`; None: 16 bits are refused.
        key: See `max_pixels`.

    Returns:
        uint8 (H, W, channels), and the orientation, 1 to 8.

    Raises:
        SegopsError: The content is no image of these formats, is damaged, has another number of
            bands, other bits than `bit_depth` takes, or too many pixels.
    """
    if signatures.image_format(content[: signatures.LENGTH]) == "TIFF" and "TIFF" in formats:
        return _decode_tiff(content, name, channels, max_pixels, bit_depth, key)
    image = load_image(content, name, formats, max_pixels, key)
    if image.mode not in _MODES:
        raise SegopsError(
            f"{name}: image of mode {image.mode}; expected {_bands(channels)} of 8 or 16 bits. "
            "Save it as a TIFF of as many bands."
        )
    _require_bands(_MODES[image.mode], channels, name)
    if stored_bits(image, content) > 8:
        depth = _require_depth(name, bit_depth)
        image = to_eight_bits(image, content, name, depth, partial(lower_bytes, content, name))
    pixels = np.array(image)
    return pixels.reshape(image.height, image.width, channels), orientation(image)


def upright(image: NDArray[np.uint8], turned: int) -> NDArray[np.uint8]:
    """The pixels (H, W, C) turned as an EXIF orientation, 1 to 8, says; contiguous."""
    if turned >= 5:
        image = image.transpose(1, 0, 2)
    rows = -1 if turned in (3, 4, 7, 8) else 1
    columns = -1 if turned in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


def extent(path: Path) -> tuple[int, int] | None:
    """Stored width and height of an image of any bands, by its header; None where it has none."""
    try:
        with path.open("rb") as file:
            return stored_extent(file)
    except OSError:
        return None


def stored_extent(file: IO[bytes]) -> tuple[int, int] | None:
    """As :func:`extent`, of an open file."""
    try:
        start = file.read(signatures.LENGTH)
        file.seek(0)
        if signatures.image_format(start) != "TIFF":
            return stored_size(file)
        tags = _read_tags(file)
        return int(tags[Tiff.IMAGEWIDTH]), int(tags[Tiff.IMAGELENGTH])
    except Exception:
        # Damaged tags can raise any exception; decoding says what is wrong.
        return None


def _bands(channels: int) -> str:
    return f"{channels} band{'s' if channels != 1 else ''}"


def _require_bands(found: int, channels: int, name: str) -> None:
    if found != channels:
        raise SegopsError(
            f"{name}: {_bands(found)}; expected {channels}. Give a file with all of them."
        )


def _require_depth(name: str, bit_depth: int | None) -> int:
    if bit_depth is None:
        raise SegopsError(
            f"{name}: 16 bits a band, and nothing says how many of them are used. Set "
            "`data.bit_depth` before training, or convert it to 8 bits a band."
        )
    return bit_depth


def _decode_tiff(
    content: bytes,
    name: str,
    channels: int,
    max_pixels: int | None,
    bit_depth: int | None,
    key: str | None,
) -> tuple[NDArray[np.uint8], int]:
    try:
        tags = _read_tags(BytesIO(content))
        width, height = int(tags[Tiff.IMAGEWIDTH]), int(tags[Tiff.IMAGELENGTH])
        found = int(tags.get(Tiff.SAMPLESPERPIXEL, 1))
        bits = set(tags.get(Tiff.BITSPERSAMPLE, (1,)))
        compression = int(tags.get(Tiff.COMPRESSION, 1))
        turned = int(tags.get(_ORIENTATION, 1))
        kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
        fill = int(tags.get(_FILL_ORDER, 1))
        predictor = int(tags.get(Tiff.PREDICTOR, 1))
    except Exception as error:
        # The reader can raise any exception on damaged tags.
        raise _damaged(name, error) from error
    if tags.next:
        raise SegopsError(
            f"{name}: holds several pictures; expected one. Save each as a file of its own."
        )
    require_pixels((width, height), name, max_pixels, key)
    _require_bands(found, channels, name)
    if bits not in ({8}, {16}) or kinds != {1} or fill != 1:
        raise SegopsError(
            f"{name}: {', '.join(map(str, sorted(bits)))} bits a band"
            f"{'' if kinds == {1} else ', not whole numbers from 0'}; expected 8 or 16. Convert it."
        )
    depth = 8 if bits == {8} else _require_depth(name, bit_depth)
    if compression not in _COMPRESSIONS:
        raise SegopsError(
            f"{name}: TIFF of compression {compression}; expected one of "
            f"{', '.join(dict.fromkeys(_COMPRESSIONS.values()))}. Save it with one of these."
        )
    try:
        parts = _as_grey(tags, width, height, channels, max(bits) // 8)
    except Exception as error:
        raise _damaged(name, error) from error
    kind = np.dtype(np.uint8 if bits == {8} else "<u2" if content[:2] == b"II" else ">u2")
    planes = []
    for part in parts:
        try:
            grey = _with_tags(content, part)
        except Exception as error:
            raise _damaged(name, error) from error
        limit = part[Tiff.IMAGEWIDTH] * part[Tiff.IMAGELENGTH]
        stored = np.array(load_image(grey, name, ("TIFF",), limit))
        planes.append(stored.view(kind).reshape(height, width, -1))
    pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    if predictor == _DIFFERENCES:
        step = int(tags.get(Tiff.TILEWIDTH, width))
        for left in range(0, width, step):  # the differences begin anew in each tile
            tile = pixels[:, left : left + step]
            np.add.accumulate(tile, axis=1, dtype=pixels.dtype, out=tile)
    if depth > 8:
        pixels = scaled(pixels, name, depth)
    return pixels, turned if 1 <= turned <= 8 else 1


def _read_tags(file: IO[bytes]) -> Any:
    """The tags of a TIFF's first picture."""
    file.seek(0)
    start = file.read(8)
    if 43 in struct.unpack("<2x2B4x", start):  # BigTIFF
        start += file.read(8)
    tags = Tiff.ImageFileDirectory_v2(start)
    first = tags.next
    file.seek(first)
    tags.load(file)
    if tags.next == first:  # the reader only warns
        raise ValueError("they end early")
    return tags


def _as_grey(tags: Any, width: int, height: int, channels: int, size: int) -> list[dict[int, Any]]:
    """The tags under which the bands are read as grey pictures: one, or one for each plane.

    A grey pixel is a byte of the `size` bytes of a band's value.
    """
    compression = tags.get(Tiff.COMPRESSION, 1)
    separate = tags.get(Tiff.PLANAR_CONFIGURATION, 1) == _SEPARATE and channels > 1
    wide = size if separate else size * channels
    part = {
        Tiff.IMAGEWIDTH: width * wide,
        Tiff.IMAGELENGTH: height,
        Tiff.BITSPERSAMPLE: 8,
        Tiff.COMPRESSION: compression,
        Tiff.PHOTOMETRIC_INTERPRETATION: 1,
        Tiff.SAMPLESPERPIXEL: 1,
    }
    if Tiff.TILEWIDTH in tags:
        across, down = int(tags[Tiff.TILEWIDTH]), int(tags[Tiff.TILELENGTH])
        part |= {Tiff.TILEWIDTH: across * wide, Tiff.TILELENGTH: down}
        count = -(-width // across) * -(-height // down)
        places = (Tiff.TILEOFFSETS, Tiff.TILEBYTECOUNTS)
    else:
        rows = min(int(tags.get(Tiff.ROWSPERSTRIP, height)), height)
        part[Tiff.ROWSPERSTRIP] = rows
        count = -(-height // rows)
        places = (Tiff.STRIPOFFSETS, Tiff.STRIPBYTECOUNTS)
    planes = channels if separate else 1
    lists = {place: tuple(tags[place]) for place in places}
    if any(len(one) != count * planes for one in lists.values()):
        raise ValueError(f"it lists another number of parts than {count * planes}")
    return [
        part | {place: one[k * count : (k + 1) * count] for place, one in lists.items()}
        for k in range(planes)
    ]


def _with_tags(content: bytes, tags: dict[int, Any]) -> bytes:
    """The file with other tags in place of its own; its pixels stay where they are.

    Pillow's writer of tags would move the strips.
    """
    place = len(content) + len(content) % 2
    lists = b""
    entries = []
    after = place + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, lists = struct.pack("<I", after + len(lists)), lists + packed
        entries.append(struct.pack("<HHI", tag, _LONG, len(values)) + packed)
    head = b"II*\0" + struct.pack("<I", place)
    count, end = struct.pack("<H", len(tags)), struct.pack("<I", 0)
    padding = b"\0" * (len(content) % 2)
    return b"".join((head, content[8:], padding, count, *entries, end, lists))


def _damaged(name: str, error: Exception) -> SegopsError:
    said = str(error).rstrip(".") or type(error).__name__
    return SegopsError(f"{name}: not decodable: its tags are damaged ({said}). Replace the file.")
