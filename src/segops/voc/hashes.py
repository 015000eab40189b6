"""The hash of a data set: its files, their splits and the class names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from segops.files import sha256_lines

HashRow = tuple[str, str, str, str]
"""(split, image id, SHA-256 of the image file, SHA-256 of the mask file); hashes in hexadecimal."""


def dataset_hash(
    rows: Iterable[HashRow], class_names: Sequence[str], reading: Sequence[str] = ()
) -> str:
    """SHA-256 over every image and mask, the splits they are in and the classes, in hexadecimal.

    The order of `rows` does not matter. The order of classes does, because it gives the ids of the
    masks their meaning; so does `reading`, the :attr:`segops.voc.reading.Reading.lines`, which give
    the files theirs. The rows of train and val give the data hash, the rows of one split the hash
    of that split. Test decides nothing, so it is not in the data hash.
    """
    names = [f"class\t{index}\t{name}" for index, name in enumerate(class_names)]
    return sha256_lines([*names, *reading, *sorted("\t".join(row) for row in rows)])


def pixel_hash(strips: Iterable[NDArray[np.uint8]], width: int, height: int) -> str:
    """SHA-256 of an image's size and of its decoded pixels, in hexadecimal.

    `strips` are its rows from the top, each uint8 (h, `width`, C).
    """
    digest = hashlib.sha256(f"{width} x {height}\n".encode())
    for strip in strips:
        digest.update(np.ascontiguousarray(strip).data)
    return digest.hexdigest()
