"""Photographs read as RGB arrays, and what every decoder of this room shares."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ..errors import SegopsError

_READABLE_MODES = ("RGB", "L", "P", "PA", "RGBA", "RGBX", "LA", "CMYK", "YCbCr", "LAB", "HSV", "1")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""What is read where the number of pixels is guarded: formats whose header tells it, and that no
other program is started for."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

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

_STRIP = 1 << 22
"""Pixels that are converted at a time, so that a large image is not held a third time."""


def decode_image(
    content: bytes,
    name: str,
    *,
    apply_orientation: bool = False,
    sixteen_bits: bool = False,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Decode a photograph.

    Args:
        content: The file's bytes: JPEG, PNG or another format that Pillow reads.
        name: What the message of an error calls the file.
        apply_orientation: Turn the image as its EXIF orientation says. Masks of a data set lie on
            the stored pixels, so it is off by default; photographs of a consumer want it on.
        sixteen_bits: Take greyscale of 16 bits by its upper 8, as Pillow takes colour of 16 bits
            in any case; a data set's are refused, because 12 bits stored in 16 would be all dark.
        max_pixels: See :func:`load_image`.

    Returns:
        uint8 array of shape (H, W, 3), RGB, contiguous and writable. Alpha is dropped.

    Raises:
        SegopsError: As :func:`load_image`, or the image has more bits a channel.
    """
    image = load_image(content, name, max_pixels)
    deep = image.mode in _SIXTEEN_BITS
    if image.mode not in _READABLE_MODES and not (deep and sixteen_bits):
        bits = {"I": ", 32-bit integers", "F": ", floating point"}.get(image.mode, "")
        raise SegopsError(
            f"{name}: image of mode {image.mode}{bits}; expected 8 bits a channel "
            f"({', '.join(_READABLE_MODES)}{', or 16 of greyscale' if sixteen_bits else ''}). "
            "Convert it to RGB."
        )
    if apply_orientation:
        image = _upright(image)
    return _to_rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen; as it is stored, where its EXIF data are damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except (struct.error, KeyError, SyntaxError, TypeError, ValueError):
        # What Pillow itself expects of damaged EXIF data, which are no damage to the image.
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    width, height = image.size
    rows = _STRIP // width
    if rows == 0 or height <= rows:
        return _pixels(image)
    array = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        array[top:bottom] = _pixels(image.crop((0, top, width, bottom)))
    return array


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BITS:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_image(path: Path, *, apply_orientation: bool = False) -> NDArray[np.uint8]:
    """Read a photograph; see :func:`decode_image`.

    Raises:
        SegopsError: As :func:`decode_image`, or the file is missing or not readable.
    """
    return decode_image(read_content(path), str(path), apply_orientation=apply_orientation)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as stored, from the file's header alone, however large.

    Raises:
        SegopsError: The file is missing or its header is not that of an image.
    """
    try:
        with path.open("rb") as file, _open(file, unlimited=True) as image:
            return image.size
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except Exception as error:
        raise _undecodable(str(path), error) from error


def read_content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        SegopsError: The file is missing or not readable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except OSError as error:
        raise SegopsError(f"{path}: not readable: {error.strerror or error}.") from None


def load_image(content: bytes, name: str, max_pixels: int | None = None) -> Image.Image:
    """Open and fully decode an image in the mode it is stored in.

    Pillow alone decodes a PNG with damaged pixel data, or with fewer rows than its header says,
    without a word; its checksums and rows are compared here.

    Args:
        content: The file's bytes.
        name: What the message of an error calls the file.
        max_pixels: Refuse an image of more pixels by its header, before any pixel is decoded;
            and read the usual formats alone. None: Pillow's own limit, of which it warns on
            standard error from 89 million pixels on.

    Raises:
        SegopsError: The content is no image, is corrupt or truncated, or has too many pixels.
    """
    try:
        unlimited = max_pixels is not None
        with _open(BytesIO(content), unlimited) as image:
            size = image.size
            if max_pixels is None or size[0] * size[1] <= max_pixels:
                if image.format == "PNG":
                    with _open(BytesIO(content), unlimited) as other:
                        other.verify()
                _load(image, max_pixels)
                if image.format == "PNG" and _lacks_rows(image, content):
                    raise OSError("fewer rows of pixels than the header says")
                return image
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever damaged bytes lead them to; all of it means one thing here.
        raise _undecodable(name, error) from error
    raise SegopsError(
        f"{name}: {size[0]} x {size[1]} pixels, {size[0] * size[1]:,} in all; expected at most "
        f"{max_pixels:,} (`predict.max_pixels`). Make it smaller, or raise the limit in "
        "params.yaml and package the model anew."
    )


def _open(file: IO[bytes], unlimited: bool) -> Image.Image:
    """Read an image's header.

    Pillow's limit is a global of the process and its warning another; a caller with a limit of its
    own needs neither, and other threads must not see them changed. So it asks Pillow's readers
    itself, as ``Image.open`` does.

    Args:
        file: Read while the image is in use.
        unlimited: Leave Pillow's limit out, and take the usual formats alone.
    """
    if not unlimited:
        return Image.open(file)
    for register in (Image.preinit, Image.init):  # the common readers, then all
        register()
        for name in _FORMATS:
            image = _read_as(name, file)
            if image is not None:
                return image
    raise UnidentifiedImageError(f"not an image file of {', '.join(_FORMATS)}")


def _read_as(name: str, file: IO[bytes]) -> Image.Image | None:
    """The header of an image of this format; None where it is another or not known yet."""
    factory, accept = Image.OPEN.get(name, (None, None))
    try:
        file.seek(0)
        if factory is None or (accept is not None and accept(file.read(16)) is not True):
            return None
        file.seek(0)
        return factory(file, "")
    except (SyntaxError, IndexError, TypeError, struct.error):
        return None  # as Image.open does: not of this format after all


def _load(image: Image.Image, max_pixels: int | None) -> None:
    """Decode the pixels; with a limit of our own without the one that the TIFF reader asks."""
    if max_pixels is not None and isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        stored = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
        image.im = Image.new(image.mode, stored).im
    image.load()


def _lacks_rows(image: Image.Image, content: bytes) -> bool:
    """Whether the pixel data of a decoded PNG end early; Pillow leaves what is missing at zero."""
    width, height = image.size
    depth, color, interlaced = content[24], content[25], content[28]
    if not interlaced and any(image.crop((0, height - 1, width, height)).tobytes()):
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


def _undecodable(name: str, error: Exception) -> SegopsError:
    # Pillow names the in-memory buffer, whose address differs from run to run.
    words = str(error).rstrip(".") or type(error).__name__
    if "cannot identify image file" in words:
        words = "not an image file"
    return SegopsError(f"{name}: not decodable: {words}. Replace the file.")
