"""Writes the pixels of images into a packed store, each to its place; also in other processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.children import reply_to_items, shared_out
from segops.data.store import StoredImage
from segops.files import sha256_bytes
from segops.runtime.errors import SegopsError
from segops.runtime.images import load_photograph, read_content
from segops.voc.bands import read_bands
from segops.voc.decoding import pixels_of
from segops.voc.hashes import pixel_hash
from segops.voc.layout import Layout
from segops.voc.masks import decode_classes
from segops.voc.pixels import rgb_strips


class Place(NamedTuple):
    """Where an image will lie in its split: see :class:`StoredImage`; its size by the header."""

    image_id: str
    offset: int
    width: int
    height: int


class Target(NamedTuple):
    """Descriptors of the files of a split while they are written; None: it has no masks."""

    images: int
    masks: int | None


def write(layout: Layout, place: Place, target: Target, *, only_check: bool) -> StoredImage:
    """Decode an image, then its mask, and write each to its place in the split `target`.

    The image is gone before its mask is decoded. With `only_check` nothing is written, and all is
    checked. Safe to call in several threads and processes.

    Raises:
        SegopsError: The image or the mask cannot be used.
    """
    image_sha256, pixels = _write_image(layout, place, None if only_check else target)
    width, height, mask_path = place.width, place.height, layout.mask_path(place.image_id)
    if target.masks is None:
        return StoredImage(height, width, place.offset, image_sha256, "", pixels)
    content = read_content(mask_path)
    mask = decode_classes(content, str(mask_path), layout.reading)
    if mask.shape != (height, width):
        raise SegopsError(
            f"{place.image_id}: image of {width} x {height} pixels, mask of "
            f"{mask.shape[1]} x {mask.shape[0]}; expected the same size. "
            "Make the mask from this image again."
        )
    if not only_check:
        for _ in _written(target.masks, place.offset, [mask]):
            pass
    return StoredImage(height, width, place.offset, image_sha256, sha256_bytes(content), pixels)


def _write_image(layout: Layout, place: Place, target: Target | None) -> tuple[str, str | None]:
    """Decode an image and write it; returns its hash and, where it was written, its pixels'."""
    path, bands = layout.image_path(place.image_id), layout.reading.bands
    parts: Iterable[NDArray[np.uint8]]
    if bands.is_rgb:
        content = read_content(path)
        digest = sha256_bytes(content)
        image = load_photograph(content, str(path), layout.reading.photographs)
        size, parts = image.size, rgb_strips(image)
    else:
        pixels, digest, *_ = read_bands(layout, place.image_id)
        size, parts = (pixels.shape[1], pixels.shape[0]), [pixels]
    if size != (place.width, place.height):
        raise SegopsError(f"{path}: changed while it was read. Pack the data again.")
    if target is None:
        return digest, None
    written = _written(target.images, bands.total * place.offset, parts)
    return digest, pixel_hash(written, *size)


def _written(
    file: int, place: int, parts: Iterable[NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Write arrays one after the other into an open file, from the byte `place` on.

    Each is yielded when it is written.
    """
    for part in parts:
        rest = part.reshape(-1).data
        while rest:
            written = os.pwrite(file, rest, place)
            place, rest = place + written, rest[written:]
        yield part


def write_apart(
    layout: Layout,
    places: Sequence[Place],
    files: Sequence[Path | None],
    processes: int,
    limit: int,
) -> Iterator[StoredImage | SegopsError | None]:
    """Yield what :func:`write` returns or raises for each place, in so many processes.

    Args:
        layout: The data set.
        places: The images and their places.
        files: Of the images and of the masks, which are there already; None: there are no masks.
        processes: Number of processes, at least 1; each decodes one image at a time, and only
            checks the images after one that cannot be used.
        limit: Most pixels that they decode at a time. None is yielded for an image with more than
            a process's share of it.

    Raises:
        OSError: A file cannot be written.
        SegopsError: A process ended early.
    """
    request = layout.to_json() | {
        "files": [None if path is None else str(path.absolute()) for path in files],
        "limit": limit // processes,
    }
    for answer in shared_out(__name__, request, places, processes):
        match answer:
            case {"fault": words}:
                yield SegopsError(words)
            case {"errno": number, "file": name}:
                raise OSError(number, os.strerror(number), name)
            case {"entry": None}:
                yield None
            case {"entry": entry}:
                yield StoredImage(**entry)


def _prepare(request: Mapping[str, Any]) -> Callable[[Sequence[Any]], dict[str, Any]]:
    layout, has_fault = Layout.from_json(request), False
    images, masks = (one and os.open(one, os.O_WRONLY) for one in request["files"])
    target = Target(images, masks)
    cv2.setNumThreads(1)

    def write_one(item: Sequence[Any]) -> dict[str, Any]:
        nonlocal has_fault
        place = Place(*item)
        size = place.width, place.height
        if pixels_of(layout, place.image_id, size) > request["limit"]:
            return {"entry": None}
        try:
            return {"entry": asdict(write(layout, place, target, only_check=has_fault))}
        except SegopsError as error:
            has_fault = True
            return {"fault": str(error)}
        except OSError as error:
            return {"errno": error.errno, "file": error.filename}

    return write_one


if __name__ == "__main__":
    reply_to_items(_prepare)
