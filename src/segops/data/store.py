"""The packed store: every image and mask decoded once, in one memory-mapped file each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.data.channel_statistics import ChannelStatistics
from segops.files import read_json
from segops.params.data import DataParams
from segops.runtime.errors import SegopsError
from segops.voc.hashes import HashRow, dataset_hash
from segops.voc.layout import SPLITS, TEST, TRAIN, UNLABELLED
from segops.voc.metadata import Metadata

FORMAT = 1
IMAGES = "images.bin"
MASKS = "masks.bin"
INDEX = "index.json"
METADATA = "metadata.json"
"""What is known of the images of a split that is scored, where data.metadata is given."""
STATISTICS = "statistics"
"""Key of the index of other than RGB images: their channels, and mean and deviation of train."""
MAPPING = "mask_ids"
"""Key of an index: :attr:`segops.voc.reading.Reading.lines`, where there are any."""


@dataclass(frozen=True)
class StoredImage:
    """Where an image lies in its split of the store, and the hashes of its two files.

    `offset` counts the pixels before it: the image begins at byte ``C * offset`` where images have
    C channels, the mask at ``offset``. `pixel_sha256` is the :func:`segops.voc.hashes.pixel_hash`
    of the image; a store of an earlier segops lacks it. `mask_sha256` is empty without a mask.
    """

    height: int
    width: int
    offset: int
    image_sha256: str
    mask_sha256: str
    pixel_sha256: str | None = None

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


class PackedStore:
    """Read-only access to a store that :func:`pack` wrote.

    Each split lies in a separate directory and is opened when it is first read, so a stage depends
    only on the splits that it reads. All processes of a machine share the same pages of memory.
    Pickling stores the path alone.

    `class_names` are in id order; `mapping` are :attr:`segops.voc.reading.Reading.lines`.

    Raises:
        SegopsError: A split that is opened, here or by a method, is missing, incomplete or of
            another format.
        KeyError: A method finds no such image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[str, StoredSplit] = {}
        present = [split for split in SPLITS if self.holds(split)]
        self._first = present[0] if present else SPLITS[0]
        first = self._split(self._first)
        self.class_names, self.mapping = first.class_names, first.mapping

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedStore, (self.path,)

    def holds(self, split: str) -> bool:
        """Whether the split is packed; ``test`` may be missing.

        ``unlabelled`` is packed always, and holds no image without ``data.unlabelled``.
        """
        return (self.path / split / INDEX).is_file()

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of `split`, sorted."""
        return tuple(self._split(split).entries)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, C), at its original size; a read-only view of the store.

        C is :attr:`channels`; three are RGB.
        """
        split, entry = self._find(image_id)
        return split.image(entry)

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """The mask of the image, uint8 (H, W), class ids and 255 for void; a read-only view."""
        split, entry = self._find(image_id)
        return split.mask(entry)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self._split(self._first).statistics.channels

    @property
    def statistics(self) -> ChannelStatistics:
        """Mean and deviation of the channels over train; none of RGB images."""
        return self._split(TRAIN).statistics

    def private(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """:meth:`image` and :meth:`mask`, writable; only the caller sees what is written.

        Only pages of memory that are written are copied.
        """
        split, entry = self._find(image_id)
        shape = entry.height, entry.width
        channels = split.statistics.channels
        start = entry.offset * channels
        image = np.memmap(split.path / IMAGES, np.uint8, "c", start, (*shape, channels))
        mask = np.memmap(split.path / MASKS, np.uint8, "c", entry.offset, shape)
        return image.view(np.ndarray), mask.view(np.ndarray)

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        entry = self._find(image_id)[1]
        return entry.height, entry.width

    def image_sha256(self, image_id: str) -> str:
        """SHA-256 of the image's file, in hexadecimal."""
        return self._find(image_id)[1].image_sha256

    def pixel_sha256(self, image_id: str) -> str | None:
        """The image's :func:`segops.voc.hashes.pixel_hash`; None: the store does not say."""
        return self._find(image_id)[1].pixel_sha256

    def pixel_hashes(self, ids: Iterable[str]) -> dict[str, str]:
        """Those of :meth:`pixel_sha256` that are known, by image id."""
        hashes = {one: self.pixel_sha256(one) for one in ids}
        return {one: pixels for one, pixels in hashes.items() if pixels is not None}

    def split_hash(self, split: str) -> str:
        """Hash of the images and masks of `split` and of the class names, in hexadecimal."""
        rows = hash_rows(split, self._split(split).entries)
        return dataset_hash(rows, self.class_names, self.mapping)

    def metadata(self, split: str) -> Metadata | None:
        """What is known of the images of `split`; None where no metadata were packed."""
        path = self.path / split / METADATA
        if not path.is_file():
            return None
        content = read_json(path)
        values = {image_id: tuple(known) for image_id, known in content["values"].items()}
        return Metadata(tuple(content["columns"]), values)

    @property
    def data_hash(self) -> str:
        """Hash of the images and masks of train and val and of the class names; opens both."""
        rows = (row for split in SPLITS for row in hash_rows(split, self._split(split).entries))
        return dataset_hash(rows, self.class_names, self.mapping)

    def require_params(self, data: DataParams) -> None:
        """Raise a SegopsError where section `data` of the parameters reads files otherwise."""
        reading = data.reading
        now = data.class_names, reading.lines, reading.bands.total
        if (self.class_names, self.mapping, self.channels) != now:
            raise SegopsError(
                f"{self.path}: packed with other data.classes, data.ignore, data.channels, "
                "data.bands or data.bit_depth than params.yaml has now. `dvc repro prepare` packs "
                "the data again."
            )

    def _split(self, split: str) -> StoredSplit:
        if split not in self._opened:
            self._opened[split] = StoredSplit(self.path / split)
        return self._opened[split]

    def _find(self, image_id: str) -> tuple[StoredSplit, StoredImage]:
        for name in (*self._opened, *SPLITS, *filter(self.holds, (TEST, UNLABELLED))):
            split = self._split(name)
            if image_id in split.entries:
                return split, split.entries[image_id]
        raise KeyError(image_id)


class StoredSplit:
    """The directory of a split, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = read_json(path / INDEX)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise SegopsError(
                f"{path / INDEX}: expected a packed store of format {FORMAT}. "
                "`dvc repro --force prepare` makes it anew."
            )
        self.class_names: tuple[str, ...] = tuple(index["classes"])
        self.mapping: tuple[str, ...] = tuple(index.get(MAPPING, ()))
        self.entries = {name: StoredImage(**entry) for name, entry in index["images"].items()}
        pixels = sum(entry.pixels for entry in self.entries.values())
        self.statistics = ChannelStatistics.of(index.get(STATISTICS))
        self.images = _mapped(path / IMAGES, pixels * self.statistics.channels)
        # Images without masks have no such file.
        self.masks = None if path.name == UNLABELLED else _mapped(path / MASKS, pixels)

    def image(self, entry: StoredImage) -> NDArray[np.uint8]:
        """Return an image, uint8 (H, W, B), as a view of the file."""
        channels = self.statistics.channels
        start = entry.offset * channels
        flat = self.images[start : start + entry.pixels * channels]
        return flat.reshape(entry.height, entry.width, channels)

    def mask(self, entry: StoredImage) -> NDArray[np.uint8]:
        """Return a mask, uint8 (H, W), as a view of the file."""
        assert self.masks is not None, f"{self.path}: has no masks"
        flat = self.masks[entry.offset : entry.offset + entry.pixels]
        return flat.reshape(entry.height, entry.width)


def hash_rows(split: str, entries: dict[str, StoredImage]) -> Iterator[HashRow]:
    """The rows of a split from which the hash of a data set is made."""
    for name, entry in entries.items():
        yield split, name, entry.image_sha256, entry.mask_sha256


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    held = path.stat().st_size if path.is_file() else None
    if held != size:
        raise SegopsError(
            f"{path}: {'missing' if held is None else f'{held} bytes long'}, expected {size} "
            "bytes. `dvc repro --force prepare` makes it anew."
        )
    if size == 0:  # an empty file cannot be mapped
        return np.empty(0, np.uint8)
    # A plain view spares each slice the bookkeeping of numpy.memmap.
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
