"""How many pixels decoding an image of a data set takes, so that threads can bound their sum."""

from __future__ import annotations

import math
from pathlib import Path

from segops.runtime.bands import RGB, extent
from segops.runtime.errors import SegopsError
from segops.runtime.images import image_size
from segops.voc.layout import Layout


def pixels_of(layout: Layout, image_id: str, size: tuple[int, int] | None = None) -> int:
    """Pixels by the header of an image or of its mask, whichever has more; 0: none is readable.

    More than three bands count as so many pixels more. `size` is that of the image by its header,
    where it is known already.
    """
    of_image = _pixels(layout, size or _size(layout, layout.image_path(image_id)))
    return max(of_image, math.prod(_size(layout, layout.mask_path(image_id))))


def pixels_in(layout: Layout, path: Path) -> int:
    """As :func:`pixels_of`, of an image that is not in the layout yet, without its mask."""
    return _pixels(layout, decoded_size(layout, path))


def _pixels(layout: Layout, size: tuple[int, int]) -> int:
    return math.prod(size) * max(RGB, layout.reading.bands.total) // RGB


def decoded_size(layout: Layout, path: Path) -> tuple[int, int]:
    """Width and height that decoding an image takes, by its header.

    (0, 0) where decoding will raise an error: no image, no file, or more pixels than are read.
    """
    size = _size(layout, path)
    return size if math.prod(size) <= layout.reading.photographs.max_pixels else (0, 0)


def _size(layout: Layout, path: Path) -> tuple[int, int]:
    """Width and height by the header; (0, 0): none is readable, and decoding will say why."""
    if not layout.reading.bands.is_rgb:
        # The header of a pipe would be waited for.
        return (extent(path) if path.is_file() else None) or (0, 0)
    try:
        return image_size(path)
    except SegopsError:
        return 0, 0
