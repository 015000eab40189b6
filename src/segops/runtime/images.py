"""Reads photographs as RGB arrays, and opens image files for all decoders of segops."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

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
from .depth import to_eight_bits
from .errors import SegopsError
from .file_kinds import describe, no_file
from .png import HEADER, header_size, lacks_rows, unwritten, verify
from .rgb import require_depth, to_rgb, upright_rgb

log = logging.getLogger("segops")

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
"""The only readers that get a file: they read the number of pixels from the header and start no
other program. ``Image.open`` would try all readers of Pillow."""

PHOTOGRAPH_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""Formats of a data set's photographs."""

MASK_FORMATS = ("PNG",)
"""Formats of a data set's masks."""

CONSUMER_FORMATS = tuple(_READERS)
"""Formats of the images that a consumer wants predicted."""

MAX_PIXELS = 178_956_970
"""Most pixels of a data set's image unless ``params.yaml`` says otherwise; Pillow's own limit."""

PIXELS_AT_ONCE = MAX_PIXELS
"""Most pixels of a data set that a process decodes at a time, so that small images are decoded side
by side and a large one alone."""

DATA_KEY = "data.max_pixels"
"""The parameter that bounds the images of a data set."""
_PREDICT_KEY = "predict.max_pixels"


@dataclass(frozen=True)
class Photographs:
    """How the photographs of a data set are read; part of section `data` of ``params.yaml``.

    Attributes:
        max_pixels: Most pixels of a photograph or mask, by its header.
        bit_depth: Bits that files of 16 bits a channel use, 9 to 16, scaled to 8; None: see
            :func:`segops.runtime.depth.to_eight_bits`.
    """

    max_pixels: int = MAX_PIXELS
    bit_depth: int | None = None


AS_SHIPPED = Photographs()
"""How photographs are read where no ``params.yaml`` says otherwise."""


def decode_image(content: bytes, name: str, reading: Photographs = AS_SHIPPED) -> NDArray[np.uint8]:
    """Decode a photograph of a data set, of `PHOTOGRAPH_FORMATS`, called `name` in messages.

    The EXIF orientation is not applied, because the mask fits the stored pixels.

    Returns:
        As :func:`segops.runtime.rgb.upright_rgb`.

    Raises:
        SegopsError: As :func:`load_photograph`.
    """
    return to_rgb(load_photograph(content, name, reading))


def load_photograph(content: bytes, name: str, reading: Photographs = AS_SHIPPED) -> Image.Image:
    """Open and fully decode a photograph of a data set; see :func:`load_image`.

    Raises:
        SegopsError: As :func:`load_image`; the file holds several pictures, and is no JPEG; or it
            has other bits than `reading` takes.
    """
    image = load_image(content, name, PHOTOGRAPH_FORMATS, reading.max_pixels, DATA_KEY)
    _require_single(image, name)
    require_depth(image, name)
    lower = partial(lower_bytes, content, name)
    return to_eight_bits(image, content, name, reading.bit_depth, lower)


def load_mask(content: bytes, name: str, reading: Photographs = AS_SHIPPED) -> Image.Image:
    """Open and fully decode a mask of a data set.

    Raises:
        SegopsError: As :func:`load_image`; or the file holds several pictures.
    """
    mask = load_image(content, name, MASK_FORMATS, reading.max_pixels, DATA_KEY)
    _require_single(mask, name)
    return mask


def _holds_several(image: Image.Image) -> bool:
    """Whether a file holds further pictures that are no views of the first, as in a JPEG."""
    try:
        # Not `n_frames`, which reads all heads of a TIFF.
        return getattr(image, "is_animated", False) and image.format not in ("JPEG", "MPO")
    except Exception:
        return False  # Damaged heads can raise any exception, and the first picture is intact.


def _require_single(image: Image.Image, name: str) -> None:
    if _holds_several(image):
        raise SegopsError(
            f"{name}: holds several pictures; expected one. Save each as a file of its own."
        )


def decode_consumer_image(
    content: bytes, name: str, max_pixels: int | None = None, bit_depth: int | None = 16
) -> NDArray[np.uint8]:
    """Decode an image file of `CONSUMER_FORMATS`; of several pictures the first, with a warning.

    Args:
        content: As of :func:`load_image`, like `name` and `max_pixels`.
        name: As there.
        max_pixels: As there.
        bit_depth: As of :class:`Photographs`: the model is to see what it was trained on.

    Returns:
        As :func:`segops.runtime.rgb.upright_rgb`.

    Raises:
        SegopsError: As :func:`load_image` and :func:`segops.runtime.rgb.upright_rgb`.
    """
    image = load_image(content, name, CONSUMER_FORMATS, max_pixels)
    if _holds_several(image):
        log.warning("%s: holds several pictures; the first one is taken.", name)
    if bit_depth != 16:  # else the upper 8 bits, as everywhere below
        require_depth(image, name)
        lower = partial(lower_bytes, content, name)
        image = to_eight_bits(image, content, name, bit_depth, lower)
    return upright_rgb(image, name)


def read_image(path: Path, reading: Photographs = AS_SHIPPED) -> NDArray[np.uint8]:
    """Read a photograph of a data set; see :func:`read_content` and :func:`decode_image`."""
    return decode_image(read_content(path), str(path), reading)


def image_size(path: Path) -> tuple[int, int]:
    """Stored width and height of a consumer's image, in pixels, by its header, without a limit.

    Raises:
        SegopsError: The file is missing or has no header of an image.
    """
    try:
        _require_file(path)
        with path.open("rb") as file:
            return stored_size(file)
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except Exception as error:
        raise _undecodable(str(path), error) from error


def stored_size(file: IO[bytes]) -> tuple[int, int]:
    """As :func:`image_size`, of an open file; damaged headers can raise any exception."""
    size = header_size(file.read(HEADER))
    if size is not None:
        return size
    file.seek(0)
    with _open(file, CONSUMER_FORMATS) as image:
        return image.size


def read_content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        SegopsError: The file is missing or not readable.
    """
    try:
        return read_file(path)
    except _NoFileError as error:
        raise SegopsError(f"{path}: {error}. Put a file in its place, or remove it.") from None
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except OSError as error:
        raise SegopsError(f"{path}: not readable: {error.strerror or error}.") from None


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    A pipe, whose reader would wait for ever, a device and the like are not opened.

    Raises:
        OSError: There is no file, or it cannot be read.
    """
    _require_file(path)
    return path.read_bytes()


def _require_file(path: Path) -> None:
    kind = no_file(path.stat().st_mode)
    if kind is not None:
        raise _NoFileError(f"not a file but {kind}")


class _NoFileError(OSError):
    """A path leads to something else than a file."""


def load_image(
    content: bytes,
    name: str,
    formats: Sequence[str],
    max_pixels: int | None = None,
    key: str | None = None,
) -> Image.Image:
    """Open and fully decode an image in its stored mode.

    Pillow alone decodes a PNG with damaged pixel data or missing rows without an error, so this
    function checks the checksums and the number of rows.

    Args:
        content: The file's bytes.
        name: Name of the file in error messages.
        formats: The accepted formats, of `CONSUMER_FORMATS`.
        max_pixels: Most pixels by the header, checked before any pixel is decoded. None:
            `MAX_PIXELS`, for an image of a data set.
        key: The parameter that sets `max_pixels`; None: that of prediction.

    Raises:
        SegopsError: The content is no image of these formats, is corrupt or truncated, or has too
            many pixels.
    """
    try:
        with _open(BytesIO(content), formats) as image:
            if image.format == "PNG" and header_size(content[:HEADER]) not in (None, image.size):
                # Pillow takes the last header, other readers the first.
                raise OSError("two headers that say different sizes")
            require_pixels(image.size, name, max_pixels, key)
            if image.format == "PNG":
                verify(image)
            _load(image)
            if image.format == "PNG" and lacks_rows(image, content):
                raise OSError("fewer rows of pixels than the header says")
            return image
    except (MemoryError, SegopsError):
        raise
    except Exception as error:
        # Decoders can raise any exception on damaged bytes.
        raise _undecodable(name, error) from error


def require_pixels(
    size: tuple[int, int], name: str, max_pixels: int | None = None, key: str | None = None
) -> None:
    """Check width and height of an image; other arguments as :func:`load_image`.

    Raises:
        SegopsError: The image has too many pixels.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if size[0] * size[1] <= limit:
        return
    key = key or (DATA_KEY if max_pixels is None else _PREDICT_KEY)
    then = " and package the model anew" if key == _PREDICT_KEY else ""
    raise SegopsError(
        f"{name}: {size[0]} x {size[1]} pixels, {size[0] * size[1]:,} in all; expected at most "
        f"{limit:,} (`{key}`). Make it smaller, or raise the limit in params.yaml{then}."
    )


def _open(file: IO[bytes], formats: Sequence[str]) -> ImageFile.ImageFile:
    """Read an image's header with the reader of the format that its first bytes name.

    ``Image.open`` is not used, because its limit of pixels and its warning are globals of the
    process, which must not change for other threads. The file is read while the image is in use.
    """
    start = file.read(signatures.LENGTH)
    found = signatures.image_format(start)
    if found is None or found not in formats:
        raise _OtherFormatError(f"{describe(start)}; expected {', '.join(formats)}")
    file.seek(0)
    return _READERS[found](file)


class _OtherFormatError(Exception):
    """A file of a format that is not accepted."""


def lower_bytes(content: bytes, name: str) -> Image.Image:
    """The lower 8 bits of each channel of a PNG or TIFF of 16 bits a channel.

    Pillow takes the first of two bytes where it decodes such colours; told the other order of
    bytes, it takes the second.
    """
    try:
        with _open(BytesIO(content), PHOTOGRAPH_FORMATS) as image:
            image.tile = [tile._replace(args=_other_order(tile.args)) for tile in image.tile]
            _load(image)
            return image
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable(name, error) from error


def _other_order(arguments: Any) -> Any:
    """The arguments of a decoder with the other order of bytes."""
    if not isinstance(arguments, str):
        return (_other_order(arguments[0]), *arguments[1:])
    order = arguments[-1] if arguments[-1] != "N" else {"little": "L", "big": "B"}[sys.byteorder]
    return f"{arguments[:-1]}{'B' if order == 'L' else 'L'}"


def _load(image: Image.Image) -> None:
    """Decode the pixels, without the TIFF reader's limit, because segops checked its own limit.

    Pixels that a PNG lacks are left :func:`segops.runtime.png.unwritten`.
    """
    if image.format == "PNG":
        image.im = unwritten(image.mode, *image.size).im
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        stored = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
        image.im = Image.new(image.mode, stored).im
    image.load()


def _undecodable(name: str, error: Exception) -> SegopsError:
    said = str(error).rstrip(".") or type(error).__name__
    words = said
    action = "Replace the file."
    if str(error) == "unknown pixel mode":  # of Pillow's reader of TIFF
        words = "its bands are not those of RGB or greyscale"
        action = "Set `data.channels` to their number before training, or convert it to RGB."
    elif isinstance(error, SyntaxError):  # what Pillow's readers raise
        words = f"its header is damaged ({said})"
    if isinstance(error, _OtherFormatError):
        action = "Put an image of such a format in its place."
    return SegopsError(f"{name}: not decodable: {words}. {action}")
