"""Reads the images of a data set with all their bands, from one file or from several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.files import sha256_bytes
from segops.runtime.bands import RGB, decode_bands, false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.images import (
    DATA_KEY,
    load_photograph,
    read_content,
    read_image,
)
from segops.runtime.rgb import orientation, to_rgb
from segops.voc.layout import Layout
from segops.voc.reading import Bands, Reading

_BAND_FORMATS = ("PNG", "TIFF")
_LEVELS = 3


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
    """Read and decode all files of an image; errors as :func:`decode_files`."""
    paths = layout.image_path(image_id), *layout.band_paths(image_id)
    return decode_files(paths, layout.reading)


def decode_files(paths: Sequence[Path], reading: Reading) -> BandImage:
    """Read and decode the files of an image: its photograph, then one for each further band.

    Raises:
        SegopsError: A file is missing, cannot be decoded, has another number of bands than
            `reading` says, or another size than the photograph.
    """
    path, *others = paths
    contents = [read_content(path)]
    first, turned = _decode_photograph(contents[0], str(path), reading)
    parts = [first]
    for other in others:
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


def further_files(photograph: Path, directories: Sequence[str]) -> tuple[Path, ...]:
    """Paths of the files that hold the further bands of an image outside of a layout.

    ``new/Depth/x/a.png`` belongs to ``new/images/x/a.jpg``. None where no directory of such a name
    stands beside one that the photograph lies in, up to three levels above it.
    """
    path = photograph.absolute()
    for above in path.parent.parents[:_LEVELS]:
        if any((above / name).is_dir() for name in directories):
            place = Path(*path.relative_to(above).parts[1:]).with_suffix("")
            reading = Reading(bands=Bands(directories=tuple(directories)))
            return Layout(above, reading).band_paths(str(place))
    return ()


def _decode_photograph(
    content: bytes, name: str, reading: Reading
) -> tuple[NDArray[np.uint8], int]:
    """The bands of the file in ``JPEGImages``, uint8 (H, W, C), and its orientation, 1 to 8."""
    if reading.bands.channels != RGB:
        return _decode(content, name, reading.bands.channels, _BAND_FORMATS, reading)
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
