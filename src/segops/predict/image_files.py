"""Reads an image to predict: from one file with all bands, or from aligned files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.runtime.bands import decode_consumer_bands
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_content
from segops.voc.bands import further_files
from segops.voc.reading import Bands

from .bundle import BundledPredictor

File = tuple[str, bytes]
"""A file's name in messages, and its content."""


def read_files(path: Path, bands: Bands) -> list[File]:
    """Read the file of an image, and those of its further bands where they are apart.

    See :func:`segops.voc.bands.further_files`.

    Raises:
        SegopsError: A file is missing or not readable.
    """
    further = further_files(path, bands.directories)
    return [(str(one), read_content(one)) for one in (path, *further)]


def decode_files(files: Sequence[File], predictor: BundledPredictor) -> NDArray[np.uint8]:
    """Decode the files of an image, as the registered model decodes a single one.

    Returns:
        uint8 (H, W, C), upright, for `predictor`.

    Raises:
        SegopsError: A file cannot be decoded, has another number of bands, or another size than
            the first.
    """
    parts: list[NDArray[np.uint8]] = []
    for name, content in files:
        channels = 1 if parts else predictor.channels - len(files) + 1
        limits = predictor.max_pixels, channels, predictor.bit_depth
        parts.append(decode_consumer_bands(content, name, *limits))
        size, expected = parts[-1].shape[1::-1], parts[0].shape[1::-1]
        if size != expected:
            raise SegopsError(
                f"{name}: {size[0]} x {size[1]} pixels, {files[0][0]} {expected[0]} x "
                f"{expected[1]}; expected the same."
            )
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
