"""The hash of a data set: its files, their splits and the class names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.files import sha256_file, sha256_lines
from segops.voc.layout import SPLITS, Layout

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


def files_hash(layout: Layout, class_names: Sequence[str]) -> str:
    """The :func:`dataset_hash` of train and val, from the files of a data set.

    Raises:
        SegopsError: As :meth:`Layout.ids`.
    """

    def sha256(path: Path) -> str:
        return sha256_file(path) if path.is_file() else "missing"

    rows: list[HashRow] = [
        (split, name, layout.image_sha256(name, sha256), sha256(layout.mask_path(name)))
        for split in SPLITS
        for name in layout.ids(split)
    ]
    return dataset_hash(rows, class_names, layout.reading.lines)


def unscored_test_hashes(layout: Layout) -> dict[str, str]:
    """The images of :meth:`Layout.unscored_test`: hash of the image -> id.

    No store holds them, so that their hashes are computed from the files; missing files are left
    out.
    """
    return {
        layout.image_sha256(name, sha256_file): name
        for name in layout.unscored_test()
        if all(path.is_file() for path in (layout.image_path(name), *layout.band_paths(name)))
    }


def pixel_hash(strips: Iterable[NDArray[np.uint8]], width: int, height: int) -> str:
    """SHA-256 of an image's size and of its decoded pixels, in hexadecimal.

    `strips` are its rows from the top, each uint8 (h, `width`, C).
    """
    digest = hashlib.sha256(f"{width} x {height}\n".encode())
    for strip in strips:
        digest.update(np.ascontiguousarray(strip).data)
    return digest.hexdigest()
