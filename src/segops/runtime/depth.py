"""Scales photographs of 16 bits a channel to 8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from .errors import SegopsError
from .png import BIT_DEPTH

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L")
"""Pillow's modes of 16 bits of greyscale."""


def to_eight_bits(
    image: Image.Image,
    content: bytes,
    name: str,
    bit_depth: int | None,
    lower: Callable[[], Image.Image],
) -> Image.Image:
    """An image of 8 bits a channel; one that has no more is returned as it is.

    Where `bit_depth` is n, a value v becomes v / 2^(n - 8), rounded down. Where it is None, colours
    become their upper 8 bits, as usual, unless no value needs more than 12 bits: such an image
    would be almost black. Greyscale, which sensors write with 10 to 16 bits, is refused then.

    Args:
        image: The decoded image.
        content: The bytes that it was decoded from.
        name: Name of the file in error messages.
        bit_depth: Bits that files of 16 bits use, 9 to 16, or None.
        lower: Decodes the lower 8 bits of each channel of a PNG or TIFF in colour.

    Raises:
        SegopsError: The image has 16 bits a channel, and `bit_depth` does not say how many of them
            are used, or a value has more.
    """
    if stored_bits(image, content) <= 8:
        return image
    if image.mode in SIXTEEN_BITS:
        return grey_to_eight_bits(image, name, bit_depth)
    if bit_depth is None:
        highest = max(high for _, high in image.getextrema())  # type: ignore[misc]
        if 0 < highest < 16:
            raise SegopsError(
                f"{name}: 16 bits a channel of which at most 12 are used, so that its upper 8 "
                "would be almost black. Set `data.bit_depth` to the bits that are used (16 where "
                "the image is meant to be so dark), or convert it to 8 bits a channel."
            )
        return image
    if bit_depth == 16:
        return image
    values = np.asarray(image, np.uint16) << 8 | np.asarray(lower())
    return _as_image(image, image.mode, scaled(values, name, bit_depth))


def grey_to_eight_bits(image: Image.Image, name: str, bit_depth: int | None) -> Image.Image:
    """The :func:`to_eight_bits` of 16 bits of greyscale, with its errors."""
    if bit_depth is None:
        raise SegopsError(
            f"{name}: 16 bits of greyscale, and nothing says how many of them are used. Set "
            "`data.bit_depth` before training, or convert it to 8 bits a channel."
        )
    return _as_image(image, "L", scaled(np.asarray(image), name, bit_depth))


def scaled(values: NDArray[np.uint16], name: str, bit_depth: int) -> NDArray[np.uint8]:
    """Values of 16 bits of which `bit_depth` are used, as 8 bits; see :func:`to_eight_bits`.

    Raises:
        SegopsError: A value has more bits.
    """
    if (highest := int(values.max())) >> bit_depth:
        raise SegopsError(
            f"{name}: holds the value {highest}, which needs {highest.bit_length()} bits; "
            f"`data.bit_depth` is {bit_depth}. Raise it, or correct the image."
        )
    return (values >> (bit_depth - 8)).astype(np.uint8)


def _as_image(image: Image.Image, mode: str, pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels as an image that keeps what else is known of `image`."""
    made = Image.frombytes(mode, image.size, pixels.tobytes())
    made.info = image.info  # with the EXIF data of a PNG
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        made.getexif()[Base.Orientation] = image.tag_v2.get(Base.Orientation, 1)
    return made


def stored_bits(image: Image.Image, content: bytes) -> int:
    """Bits of the channel that has most: of greyscale, and of the colours of PNG and TIFF.

    Other formats of colours with more than 8 bits are scaled by their decoders.
    """
    if image.mode in SIXTEEN_BITS:
        return 16
    if image.format == "PNG":
        return content[BIT_DEPTH]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return 8
