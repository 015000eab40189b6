"""How many pixels decoding an image of a data set takes, so that threads can bound their sum."""

from __future__ import annotations

import math

from segops.runtime.errors import SegopsError
from segops.runtime.images import image_size
from segops.voc.layout import Layout


def pixels_of(layout: Layout, image_id: str) -> int:
    """Pixels by the header of an image or of its mask, whichever has more; 0: none is readable."""
    pixels = 0
    for path in (layout.image_path(image_id), layout.mask_path(image_id)):
        if path.is_file():  # the header of a pipe would be waited for
            try:
                pixels = max(pixels, math.prod(image_size(path)))
            except SegopsError:
                continue  # decoding it will say what is wrong
    return pixels
