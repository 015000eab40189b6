"""The packed store: every image and mask decoded once, in one memory-mapped file each."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.data.channel_statistics import ChannelStatistics, measured
from segops.files import atomic_directory, read_json, sha256_bytes, write_json
from segops.params.data import DataParams
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import (
    PIXELS_AT_ONCE,
    load_photograph,
    read_content,
)
from segops.threads import pipelined
from segops.voc.bands import read_bands
from segops.voc.decoding import decoded_size, pixels_of
from segops.voc.hashes import HashRow, dataset_hash, pixel_hash
from segops.voc.layout import SPLITS, TEST, TRAIN, Layout
from segops.voc.masks import decode_classes
from segops.voc.pixels import rgb_strips

FORMAT = 1
IMAGES = "images.bin"
MASKS = "masks.bin"
INDEX = "index.json"
STATISTICS = "statistics"
"""Key of the index of other than RGB images: their channels, and mean and deviation of train."""
MAPPING = "mask_ids"
"""Key of an index: :attr:`segops.voc.reading.Reading.lines`, where there are any."""


@dataclass(frozen=True)
class StoredImage:
    """Where an image lies in its split of the store, and the hashes of its two files.

    `offset` counts the pixels before it: the image begins at byte ``C * offset`` where images have
    C channels, the mask at ``offset``. `pixel_sha256` is the :func:`segops.voc.hashes.pixel_hash`
    of the image; a store of an earlier segops lacks it.
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
        self._opened: dict[str, _Split] = {}
        present = [split for split in SPLITS if self.holds(split)]
        self._first = present[0] if present else SPLITS[0]
        first = self._split(self._first)
        self.class_names, self.mapping = first.class_names, first.mapping

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedStore, (self.path,)

    def holds(self, split: str) -> bool:
        """Whether the split is packed; ``test`` may be missing."""
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
        rows = _rows(split, self._split(split).entries)
        return dataset_hash(rows, self.class_names, self.mapping)

    @property
    def data_hash(self) -> str:
        """Hash of the images and masks of train and val and of the class names; opens both."""
        rows = (row for split in SPLITS for row in _rows(split, self._split(split).entries))
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

    def _split(self, split: str) -> _Split:
        if split not in self._opened:
            self._opened[split] = _Split(self.path / split)
        return self._opened[split]

    def _find(self, image_id: str) -> tuple[_Split, StoredImage]:
        for name in (*self._opened, *SPLITS, *((TEST,) if self.holds(TEST) else ())):
            split = self._split(name)
            if image_id in split.entries:
                return split, split.entries[image_id]
        raise KeyError(image_id)


class _Split:
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
        self.masks = _mapped(path / MASKS, pixels)

    def image(self, entry: StoredImage) -> NDArray[np.uint8]:
        channels = self.statistics.channels
        start = entry.offset * channels
        flat = self.images[start : start + entry.pixels * channels]
        return flat.reshape(entry.height, entry.width, channels)

    def mask(self, entry: StoredImage) -> NDArray[np.uint8]:
        flat = self.masks[entry.offset : entry.offset + entry.pixels]
        return flat.reshape(entry.height, entry.width)


def pack(
    layout: Layout,
    target: Path,
    class_names: Sequence[str],
    *,
    expected_hash: str | None = None,
    expected_test: str | None = None,
    workers: int = 1,
) -> None:
    """Decode every listed image and mask into a packed store at `target`.

    The same data gives the same bytes, in whatever order the lists name the images. The store
    replaces `target` whole or not at all. Memory does not grow with the number of images: threads
    decode `PIXELS_AT_ONCE` pixels at a time at most, and write them strip by strip.

    Args:
        layout: The data set.
        target: Directory of the store.
        class_names: Names of the classes in id order.
        expected_hash: The data hash that was validated.
        expected_test: The hash of ``test`` that was validated; None: there was none.
        workers: Threads that decode (decoding releases the interpreter's lock).

    Raises:
        SegopsError: A file is missing or not decodable, an image and its mask differ in size or an
            image is in two splits (all of these are listed); or the hashes are not the expected
            ones; or the disk is full.
    """
    bands, mapping = layout.reading.bands, layout.reading.lines
    for leftover in target.parent.glob(f".{target.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    with atomic_directory(target) as directory:
        try:
            splits = _write_pixels(layout, directory, workers)
            rows = (row for split in SPLITS for row in _rows(split, splits[split]))
            data_hash = dataset_hash(rows, class_names, mapping)
            test, test_hash = splits.get(TEST), None
            if test is not None:
                test_hash = dataset_hash(_rows(TEST, test), class_names, mapping)
            if expected_hash is not None and (data_hash, test_hash) != (
                expected_hash,
                expected_test,
            ):
                raise SegopsError(
                    f"{layout.root}: not the data that was validated: its hash is {data_hash}, "
                    f"that of its test {test_hash or 'none'}; the verdict's are {expected_hash} "
                    f"and {expected_test or 'none'}. `dvc repro validate` validates it anew."
                )
            for split, entries in splits.items():
                content = {
                    "format": FORMAT,
                    "classes": list(class_names),
                    **({MAPPING: list(mapping)} if mapping else {}),
                    "images": {name: asdict(entry) for name, entry in entries.items()},
                }
                if not bands.is_rgb:
                    content[STATISTICS] = ChannelStatistics(bands.total).to_json()
                write_json(directory / split / INDEX, content)
            if not bands.is_rgb:
                write_json(directory / TRAIN / INDEX, _with_statistics(directory / TRAIN))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SegopsError(
                f"{target}: the disk is full. The store needs {bands.total + 1} bytes for each "
                "pixel, one of them for the masks; free space or move the workspace."
            ) from error


def _with_statistics(directory: Path) -> dict[str, Any]:
    """The index of a split with the statistics of its images."""
    split = _Split(directory)
    content: dict[str, Any] = read_json(directory / INDEX)
    content[STATISTICS] = measured(
        split.statistics.channels,
        (
            (split.image(entry), split.mask(entry))
            for entry in track(split.entries.values(), "Measuring channels", len(split.entries))
        ),
    ).to_json()
    return content


class _Place(NamedTuple):
    """Where an image will lie in its split: see :class:`StoredImage`; its size by the header."""

    image_id: str
    offset: int
    width: int
    height: int


class _Target(NamedTuple):
    """Descriptors of the two files of a split while threads write to them."""

    images: int
    masks: int


def _write_pixels(
    layout: Layout, directory: Path, workers: int
) -> dict[str, dict[str, StoredImage]]:
    """Write the pixels of every split; returns the entries of each by image id."""
    splits: dict[str, dict[str, StoredImage]] = {}
    faults: list[SegopsError] = []
    seen: set[str] = set()
    for split, ids in layout.splits().items():
        entries = splits[split] = {}
        (directory / split).mkdir()
        ordered = sorted(ids)
        with (
            (directory / split / IMAGES).open("wb") as images,
            (directory / split / MASKS).open("wb") as masks,
        ):
            files = _Target(images.fileno(), masks.fileno())

            def write(place: _Place, target: _Target = files) -> StoredImage | SegopsError:
                try:
                    return _write(layout, place, None if faults else target)
                except SegopsError as error:
                    return error

            written = pipelined(
                _places(layout, ordered),
                write,
                max(1, workers),
                2 * workers,
                size=lambda place: pixels_of(layout, place.image_id, (place.width, place.height)),
                limit=PIXELS_AT_ONCE,
            )
            progress = track(written, f"Packing {split}", len(ids))
            for image_id, entry in zip(ordered, progress, strict=True):
                if isinstance(entry, SegopsError):
                    faults.append(entry)
                elif image_id in seen:
                    faults.append(SegopsError(f"{image_id}: in two splits"))
                else:
                    seen.add(image_id)
                    entries[image_id] = entry
    if faults:
        raise SegopsError(
            f"{layout.root}: {len(faults)} image(s) unusable:\n"
            + "\n".join(f"  {one}" for one in faults)
        )
    return splits


def _places(layout: Layout, ids: Sequence[str]) -> Iterator[_Place]:
    """The places of images one after the other."""
    offset = 0
    for image_id in ids:
        width, height = decoded_size(layout, layout.image_path(image_id))
        yield _Place(image_id, offset, width, height)
        offset += width * height


def _write(layout: Layout, place: _Place, target: _Target | None) -> StoredImage:
    """Decode an image, then its mask, and write each to its place in the split `target`.

    The image is gone before its mask is decoded. Without a target nothing is written, and all is
    checked. Runs in a thread.
    """
    image_sha256, pixels = _write_image(layout, place, target)
    width, height, mask_path = place.width, place.height, layout.mask_path(place.image_id)
    content = read_content(mask_path)
    mask = decode_classes(content, str(mask_path), layout.reading)
    if mask.shape != (height, width):
        raise SegopsError(
            f"{place.image_id}: image of {width} x {height} pixels, mask of "
            f"{mask.shape[1]} x {mask.shape[0]}; expected the same size. "
            "Make the mask from this image again."
        )
    if target is not None:
        for _ in _written(target.masks, place.offset, [mask]):
            pass
    return StoredImage(height, width, place.offset, image_sha256, sha256_bytes(content), pixels)


def _write_image(layout: Layout, place: _Place, target: _Target | None) -> tuple[str, str | None]:
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


def _rows(split: str, entries: dict[str, StoredImage]) -> Iterator[HashRow]:
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
    # A plain view spares each slice the bookkeeping of numpy.memmap.
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
