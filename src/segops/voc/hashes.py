"""One hash for a data set: which files, in which split, under which class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segops.files import sha256_lines

HashRow = tuple[str, str, str, str]
"""(split, image id, SHA-256 of the image file, SHA-256 of the mask file); hashes in hexadecimal."""


def dataset_hash(rows: Iterable[HashRow], class_names: Sequence[str]) -> str:
    """SHA-256 over every image and mask, the splits they are in and the classes, in hexadecimal.

    The order of `rows` does not matter; the order of classes does, because it gives the ids of the
    masks their meaning. Over the rows of both splits this is the data hash, over those of one
    split that split's hash.
    """
    names = [f"class\t{index}\t{name}" for index, name in enumerate(class_names)]
    return sha256_lines([*names, *sorted("\t".join(row) for row in rows)])
