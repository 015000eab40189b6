"""Reads the images of a data set with all their bands, from one file or from several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.files import sha256_bytes
from segops.runtime.bands import RGB, decode_bands, false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.images import (
    DATA_KEY,
    PHOTOGRAPH_FORMATS,
    load_photograph,
    orientation,
    read_content,
    read_image,
    to_rgb,
)
from segops.voc.layout import Layout
from segops.voc.reading import Reading

_BAND_FORMATS = ("PNG", "TIFF")


class BandImage(NamedTuple):
    """An image with all its bands.

    Attributes:
        pixels: uint8 (H, W, C).
        sha256: Its hash; see :meth:`Bands.sha256`.
        size: Bytes of its files.
        orientation: EXIF orientation of the photograph, 1 to 8; it is not applied.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    size: int
    orientation: int


def read_bands(layout: Layout, image_id: str) -> BandImage:
    """Read and decode all files of an image; the photograph's bands come first.

    Raises:
        SegopsError: A file is missing, cannot be decoded, has another number of bands than the data
            set, or another size than the photograph.
    """
    reading, path = layout.reading, layout.image_path(image_id)
    contents = [read_content(path)]
    first, turned = decode_photograph(contents[0], str(path), reading)
    parts = [first]
    for other in layout.band_paths(image_id):
        contents.append(read_content(other))
        band, other_turned = _decode(contents[-1], str(other), 1, _BAND_FORMATS, reading)
        if band.shape[:2] != first.shape[:2] or other_turned != turned:
            raise SegopsError(
                f"{other}: {_extent(band, other_turned)}, its photograph {_extent(first, turned)}; "
                "expected the same. Make the band from this photograph's view again."
            )
        parts.append(band)
    pixels = np.concatenate(parts, axis=2) if len(parts) > 1 else first
    digest = reading.bands.sha256([sha256_bytes(content) for content in contents])
    return BandImage(pixels, digest, sum(map(len, contents)), turned)


def decode_photograph(content: bytes, name: str, reading: Reading) -> tuple[NDArray[np.uint8], int]:
    """Decode the file of an image that lies in ``JPEGImages``, called `name` in messages.

    Returns:
        Its bands, uint8 (H, W, C), as stored, and its EXIF orientation, 1 to 8.

    Raises:
        SegopsError: The file cannot be decoded or has another number of bands than the data set.
    """
    if reading.bands.channels != RGB:
        return _decode(content, name, reading.bands.channels, PHOTOGRAPH_FORMATS, reading)
    photograph = load_photograph(content, name, reading.photographs)
    return to_rgb(photograph), orientation(photograph)


def _decode(
    content: bytes, name: str, channels: int, formats: Sequence[str], reading: Reading
) -> tuple[NDArray[np.uint8], int]:
    limits = reading.photographs
    return decode_bands(
        content, name, channels, formats, limits.max_pixels, limits.bit_depth, DATA_KEY
    )


def read_pixels(layout: Layout, image_id: str) -> NDArray[np.uint8]:
    """The pixels of an image with all its bands, uint8 (H, W, C); errors as :func:`read_bands`."""
    if layout.reading.bands.is_rgb:
        return read_image(layout.image_path(image_id), layout.reading.photographs)
    return read_bands(layout, image_id).pixels


def read_picture(layout: Layout, image_id: str) -> NDArray[np.uint8]:
    """An image to look at, uint8 (H, W, 3), other bands in false colour; errors as there."""
    picture: NDArray[np.uint8] = false_colour(read_pixels(layout, image_id))
    return picture


def _extent(image: NDArray[np.uint8], turned: int) -> str:
    words = f"{image.shape[1]} x {image.shape[0]} pixels"
    return words if turned == 1 else f"{words} with orientation {turned}"
