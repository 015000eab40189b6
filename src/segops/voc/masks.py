"""Reads the masks of a data set as classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.runtime.images import read_content
from segops.runtime.masks import decode_mask
from segops.voc.reading import Reading


def decode_classes(content: bytes, name: str, reading: Reading) -> NDArray[np.uint8]:
    """Decode a mask, called `name` in messages, to classes, uint8 (H, W); 255 is void.

    Raises:
        SegopsError: It cannot be decoded, or holds ids that are neither a class nor void; see
            :meth:`segops.voc.mask_ids.MaskIds.classes`.
    """
    return reading.mask_ids.classes(decode_mask(content, name, reading.photographs), name)


def read_classes(path: Path, reading: Reading) -> NDArray[np.uint8]:
    """Read and decode a mask; result and errors as those of :func:`decode_classes`."""
    return decode_classes(read_content(path), str(path), reading)
