"""Turns decoded images into RGB pixels, upright or as stored, and a large one strip by strip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .depth import SIXTEEN_BITS, grey_to_eight_bits
from .errors import SegopsError

_READABLE_MODES = ("RGB", "L", "P", "PA", "RGBA", "RGBX", "LA", "CMYK", "YCbCr", "LAB", "HSV", "1")

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
"""The transposition that turns an image upright, by its EXIF orientation."""

_STRIP = 1 << 22
"""Pixels converted at a time, so that memory does not hold a large image a third time."""


def upright_rgb(image: Image.Image, name: str, bit_depth: int | None = 16) -> NDArray[np.uint8]:
    """The pixels of a consumer's image, turned as its EXIF orientation says.

    `bit_depth` is that of :class:`Photographs`, for 16 bits of greyscale.

    Returns:
        uint8 array of shape (H, W, 3), RGB, contiguous and writable. Alpha is dropped.

    Raises:
        SegopsError: The image has more bits a channel than 8, or 16 of greyscale that `bit_depth`
            does not allow.
    """
    require_depth(image, name)
    if image.mode in SIXTEEN_BITS:
        image = grey_to_eight_bits(image, name, bit_depth)
    method = _UPRIGHT.get(orientation(image))
    return to_rgb(image if method is None else image.transpose(method))


def require_depth(image: Image.Image, name: str) -> None:
    """Raise a SegopsError where RGB of 8 bits a channel, or 16 of grey, cannot be made of it."""
    if image.mode in (*_READABLE_MODES, *SIXTEEN_BITS):
        return
    bits = {"I": ", 32-bit integers", "F": ", floating point"}.get(image.mode, "")
    raise SegopsError(
        f"{name}: image of mode {image.mode}{bits}; expected 8 bits a channel "
        f"({', '.join(_READABLE_MODES)}, or 16 of greyscale). Convert it to RGB."
    )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing, meaningless or damaged."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:
        # Damaged EXIF data can raise any exception, and the image itself is intact.
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an image as stored, as :func:`upright_rgb` returns them."""
    width, height = image.size
    if width * height <= _STRIP:
        return _pixels(image)
    array = np.empty((height, width, 3), np.uint8)
    top = 0
    for strip in rgb_strips(image):
        array[top : top + len(strip)] = strip
        top += len(strip)
    return array


def rgb_strips(image: Image.Image) -> Iterator[NDArray[np.uint8]]:
    """The pixels of an image in strips from top to bottom.

    Each is uint8 (h, W, 3), RGB, contiguous, of about four million pixels, so that a large image is
    never held twice.
    """
    return map(_pixels, strips(image))


def strips(image: Image.Image, multiple: int = 1) -> Iterator[Image.Image]:
    """An image in strips as of :func:`rgb_strips`, of mode RGB.

    The number of rows of all but the last is a multiple of `multiple`.
    """
    width, height = image.size
    rows = max(1, _STRIP // width // multiple) * multiple
    if rows >= height:
        yield _rgb(image)
        return
    for top in range(0, height, rows):
        yield _rgb(image.crop((0, top, width, min(top + rows, height))))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(_rgb(image))
