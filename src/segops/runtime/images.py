"""Photographs read as RGB arrays, and what every decoder of this room shares."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from . import signatures
from .errors import SegopsError
from .file_kinds import describe

_READABLE_MODES = ("RGB", "L", "P", "PA", "RGBA", "RGBX", "LA", "CMYK", "YCbCr", "LAB", "HSV", "1")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L")

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
"""All readers that are ever given a file: the header tells the number of pixels, and no other
program is started. ``Image.open`` would try every reader that Pillow has."""

PHOTOGRAPH_FORMATS = ("JPEG",)
"""What a data set's photograph may be."""

MASK_FORMATS = ("PNG",)
"""What a data set's mask may be."""

CONSUMER_FORMATS = tuple(_READERS)
"""What an image may be that a consumer wants predicted."""

_MAX_PIXELS = 178_956_970
"""Of an image of a data set; as many as Pillow decodes."""

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


def decode_image(content: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a photograph of a data set.

    It is left as it is stored, whatever its EXIF orientation: the mask lies on the stored pixels.

    Args:
        content: The file's bytes: JPEG.
        name: What the message of an error calls the file.

    Returns:
        uint8 array of shape (H, W, 3), RGB, contiguous and writable.

    Raises:
        SegopsError: As :func:`load_image`.
    """
    return _to_rgb(load_image(content, name, PHOTOGRAPH_FORMATS))


def decode_consumer_image(
    content: bytes, name: str, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Decode an image that a consumer wants predicted, turned as its EXIF orientation says.

    Args:
        content: The file's bytes, of one of `CONSUMER_FORMATS`.
        name: What the message of an error calls the file.
        max_pixels: See :func:`load_image`.

    Returns:
        uint8 array of shape (H, W, 3), RGB, contiguous and writable. Alpha is dropped; of 16 bits
        a channel the upper 8 are taken.

    Raises:
        SegopsError: As :func:`load_image`, or the image has more bits a channel.
    """
    image = load_image(content, name, CONSUMER_FORMATS, max_pixels)
    if image.mode not in (*_READABLE_MODES, *_SIXTEEN_BITS):
        bits = {"I": ", 32-bit integers", "F": ", floating point"}.get(image.mode, "")
        raise SegopsError(
            f"{name}: image of mode {image.mode}{bits}; expected 8 bits a channel "
            f"({', '.join(_READABLE_MODES)}, or 16 of greyscale). Convert it to RGB."
        )
    return _to_rgb(_upright(image))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8: 1 where there is none, it means nothing or it is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:
        # Damaged EXIF data raise whatever the bytes lead to, and are no damage to the image.
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen."""
    method = _UPRIGHT.get(orientation(image))
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


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a photograph of a data set; see :func:`decode_image`.

    Raises:
        SegopsError: As :func:`decode_image`, or the file is missing or not readable.
    """
    return decode_image(read_content(path), str(path))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a consumer's image, in pixels as stored, from its header, however large.

    Raises:
        SegopsError: The file is missing or its header is not that of an image.
    """
    try:
        with path.open("rb") as file, _open(file, CONSUMER_FORMATS) as image:
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
        if path.exists() and not path.is_file():
            raise SegopsError(f"{path}: not a file. Put a file in its place, or remove it.")
        return path.read_bytes()
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except OSError as error:
        raise SegopsError(f"{path}: not readable: {error.strerror or error}.") from None


def load_image(
    content: bytes, name: str, formats: Sequence[str], max_pixels: int | None = None
) -> Image.Image:
    """Open and fully decode an image in the mode it is stored in.

    Pillow alone decodes a PNG with damaged pixel data, or with fewer rows than its header says,
    without a word; its checksums and rows are compared here.

    Args:
        content: The file's bytes.
        name: What the message of an error calls the file.
        formats: The formats taken, of `CONSUMER_FORMATS`; no reader of another is asked.
        max_pixels: Refuse an image of more pixels by its header, before any pixel is decoded.
            None: a data set's image, of 179 million at most.

    Raises:
        SegopsError: The content is no image of these formats, is corrupt or truncated, or has too
            many pixels.
    """
    limit = _MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with _open(BytesIO(content), formats) as image:
            size = image.size
            if size[0] * size[1] <= limit:
                if image.format == "PNG":
                    with _open(BytesIO(content), formats) as other:
                        other.verify()
                _load(image)
                if image.format == "PNG" and _lacks_rows(image, content):
                    raise OSError("fewer rows of pixels than the header says")
                return image
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise whatever damaged bytes lead them to; all of it means one thing here.
        raise _undecodable(name, error) from error
    words = f"{name}: {size[0]} x {size[1]} pixels, {size[0] * size[1]:,} in all; expected at most "
    if max_pixels is None:
        raise SegopsError(f"{words}{limit:,}. Make it smaller.")
    raise SegopsError(
        f"{words}{limit:,} (`predict.max_pixels`). Make it smaller, or raise the limit in "
        "params.yaml and package the model anew."
    )


def image_mode(content: bytes, name: str, formats: Sequence[str]) -> str:
    """The mode that an image is stored in, by its header alone; the rest as :func:`load_image`."""
    try:
        with _open(BytesIO(content), formats) as image:
            return image.mode
    except Exception as error:
        raise _undecodable(name, error) from error


def _open(file: IO[bytes], formats: Sequence[str]) -> ImageFile.ImageFile:
    """Read an image's header with the one reader that its first bytes name.

    ``Image.open`` is not asked: its limit of pixels is a global of the process and its warning
    another, and other threads must not see them changed.

    Args:
        file: Read while the image is in use.
        formats: The formats taken.
    """
    start = file.read(signatures.LENGTH)
    found = signatures.image_format(start)
    if found is None or found not in formats:
        raise _OtherFormatError(f"{describe(start)}; expected {', '.join(formats)}")
    file.seek(0)
    return _READERS[found](file)


class _OtherFormatError(Exception):
    """A file of a format that is not taken."""


def _load(image: Image.Image) -> None:
    """Decode the pixels without the limit that the TIFF reader asks: ours was asked before."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
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
    said = str(error).rstrip(".") or type(error).__name__
    words = said
    if isinstance(error, SyntaxError):  # what Pillow's readers raise
        words = f"its header is damaged ({said})"
    action = "Replace the file."
    if isinstance(error, _OtherFormatError):
        action = "Put an image of such a format in its place."
    return SegopsError(f"{name}: not decodable: {words}. {action}")
