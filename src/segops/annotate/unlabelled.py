"""The images of a directory that are not in the data set yet, each picture once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from segops import files
from segops.predict.bundle import BundledPredictor
from segops.predict.image_files import decode_files, read_files
from segops.predict.memory import named_shortage
from segops.progress import track
from segops.quality import duplicates
from segops.runtime.bands import extent, false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE
from segops.threads import cores, pipelined
from segops.voc.bands import read_bands
from segops.voc.decoding import pixels_of
from segops.voc.hashes import pixel_hash
from segops.voc.layout import ALL_SPLITS, Layout

Seen = TypeVar("Seen")
MAX_WORKERS = 8
"""Most threads that decode images."""
_DATA, _NEW = "the data set", "new"


@dataclass(frozen=True)
class Look:
    """What tells whether two images are the same.

    Attributes:
        image_id: Its id of the data set, or its name below the directory.
        split: Whether it is of the data set or new.
        sha256: Of its file, or of its files as :meth:`segops.voc.reading.Bands.sha256`.
        image_pixels: Its :func:`segops.voc.hashes.pixel_hash`.
        perceptual_hash: As of :func:`segops.quality.duplicates.perceptual_hash`.
        width: Pixels.
        height: Pixels.
    """

    image_id: str
    split: str
    sha256: str
    image_pixels: str
    perceptual_hash: str | None
    width: int
    height: int


@dataclass(frozen=True)
class Unlabelled:
    """The images of a directory.

    Attributes:
        new: Path of each image that is not in the data set, by its name below the directory.
        total: Images of the directory.
        known: How many are in the data set: the same file, pixels, or nearly the same picture.
        repeated: How many show nearly the same picture as an image before them.
        failed: A message for each image that cannot be read.
        largest: Pixels of the largest new image.
        labelled: Image ids of the data set.
    """

    new: Mapping[str, Path]
    total: int
    known: int
    repeated: int
    failed: tuple[str, ...]
    largest: int
    labelled: tuple[str, ...]


def find_unlabelled(
    found: Mapping[str, Path], layout: Layout, predictor: BundledPredictor
) -> Unlabelled:
    """Compare images with those of a data set, and with each other.

    Args:
        found: The images, by name.
        layout: The data set; an image of any of its lists is in it.
        predictor: The model, which says how an image is decoded.

    Raises:
        SegopsError: An image of the data set cannot be read.
    """
    lists = [split for split in ALL_SPLITS if layout.list_path(split).is_file()]
    ids = tuple(dict.fromkeys(one for split in lists for one in layout.ids(split)))
    labelled = list(_looks_of_data(layout, ids))
    looks: list[Look] = []
    failed: list[str] = []
    for one in _looks_of_files(found, predictor):
        if isinstance(one, str):
            failed.append(one)
        else:
            looks.append(one)

    def read(name: str) -> NDArray[np.uint8]:
        split, _, own = name.partition(":")
        if split == _DATA:
            pixels = read_bands(layout, own).pixels
        else:
            pixels = decode_files(read_files(found[own], predictor.bands), predictor)
        shown: NDArray[np.uint8] = false_colour(pixels)
        return shown

    facts = pd.DataFrame([asdict(one) for one in (*labelled, *looks)])
    facts["image_id"] = facts["split"] + ":" + facts["image_id"]
    files_known = {one.sha256 for one in labelled}
    known = {one.image_id for one in looks if one.sha256 in files_known}
    repeated: set[str] = set()
    for pair in duplicates.find(facts, read):
        if pair.other_split == _NEW:
            (known if pair.split == _DATA else repeated).add(pair.other_id.partition(":")[2])
    new = [one for one in looks if one.image_id not in known | repeated]
    return Unlabelled(
        new={one.image_id: found[one.image_id] for one in new},
        total=len(found),
        known=len(known),
        repeated=len(repeated - known),
        failed=tuple(failed),
        largest=max((one.width * one.height for one in new), default=1),
        labelled=ids,
    )


def _looks_of_data(layout: Layout, ids: Sequence[str]) -> Iterator[Look]:
    def look(image_id: str) -> Look:
        image = read_bands(layout, image_id)
        return _look(image_id, _DATA, image.sha256, image.pixels)

    looks = _in_threads(ids, look, lambda one: pixels_of(layout, one))
    return track(looks, "Looking at the data set", len(ids))


def _looks_of_files(found: Mapping[str, Path], predictor: BundledPredictor) -> Iterator[Look | str]:
    """The look of each image, or what is wrong with it."""

    def look(name: str) -> Look | str:
        try:
            with named_shortage(str(found[name])):
                held = read_files(found[name], predictor.bands)
                hashes = [files.sha256_bytes(content) for _, content in held]
                pixels = decode_files(held, predictor)
                return _look(name, _NEW, predictor.bands.sha256(hashes), pixels)
        except SegopsError as error:
            return str(error)

    def size(name: str) -> int:
        width, height = extent(found[name]) or (0, 0)
        return width * height if width * height <= predictor.max_pixels else 0

    return track(_in_threads(list(found), look, size), "Looking at images", len(found))


def _in_threads(
    names: Sequence[str], look: Callable[[str], Seen], size: Callable[[str], int]
) -> Iterator[Seen]:
    threads = min(MAX_WORKERS, cores())
    return pipelined(names, look, threads, 4 * threads, size=size, limit=PIXELS_AT_ONCE)


def _look(image_id: str, split: str, sha256: str, pixels: NDArray[np.uint8]) -> Look:
    height, width = pixels.shape[:2]
    grey = duplicates.halved(Image.fromarray(false_colour(pixels)))
    digest = pixel_hash([pixels], width, height)
    return Look(image_id, split, sha256, digest, duplicates.perceptual_hash(grey), width, height)
