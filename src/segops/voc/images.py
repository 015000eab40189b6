"""Photographs read as RGB arrays, and what every decoder of this room shares."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import SegopsError

_READABLE_MODES = ("RGB", "L", "P", "PA", "RGBA", "RGBX", "LA", "CMYK", "YCbCr", "LAB", "HSV", "1")


def decode_image(
    content: bytes, name: str, *, apply_orientation: bool = False
) -> NDArray[np.uint8]:
    """Decode a photograph.

    Args:
        content: The file's bytes: JPEG, PNG or another format that Pillow reads.
        name: What the message of an error calls the file.
        apply_orientation: Turn the image as its EXIF orientation says. Masks of a data set lie on
            the stored pixels, so it is off by default; photographs of a consumer want it on.

    Returns:
        uint8 array of shape (H, W, 3), RGB, contiguous and writable. Alpha is dropped.

    Raises:
        SegopsError: The content is no image, is corrupt or truncated, or has more than 8 bits a
            channel.
    """
    image = load_image(content, name)
    if image.mode not in _READABLE_MODES:
        raise SegopsError(
            f"{name}: image of mode {image.mode}; expected 8 bits a channel "
            f"({', '.join(_READABLE_MODES)}). Convert it to RGB."
        )
    if apply_orientation:
        image = ImageOps.exif_transpose(image)
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
    """Width and height in pixels as stored, from the file's header alone.

    Raises:
        SegopsError: The file is missing or its header is not that of an image.
    """
    try:
        with Image.open(path) as image:
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


def load_image(content: bytes, name: str) -> Image.Image:
    """Open and fully decode an image in the mode it is stored in.

    Pillow alone decodes a PNG with damaged pixel data without a word; its checksums are compared
    here.

    Raises:
        SegopsError: The content is no image, or is corrupt or truncated.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            if image.format == "PNG":
                with Image.open(BytesIO(content)) as other:
                    other.verify()
            image.load()
            return image
    except Exception as error:
        # Decoders raise whatever damaged bytes lead them to; all of it means one thing here.
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> SegopsError:
    # Pillow names the in-memory buffer, whose address differs from run to run.
    words = str(error) or type(error).__name__
    if "cannot identify image file" in words:
        words = "not an image file"
    return SegopsError(f"{name}: not decodable: {words}. Replace the file.")
