"""The packed store: every image and mask decoded once, in one memory-mapped file each."""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.files import atomic_directory, read_json, sha256_bytes, write_json
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import decode_image, read_content
from segops.runtime.masks import decode_mask
from segops.voc.hashes import HashRow, dataset_hash
from segops.voc.layout import SPLITS, Layout

FORMAT = 1
IMAGES = "images.bin"
MASKS = "masks.bin"
INDEX = "index.json"
CHANNELS = 3


@dataclass(frozen=True)
class Entry:
    """Where an image lies in its split of the store.

    Attributes:
        height: In pixels.
        width: In pixels.
        offset: Pixels before it; the image begins at byte ``3 * offset``, the mask at ``offset``.
        image_sha256: Hash of the image's file, in hexadecimal.
        mask_sha256: Hash of the mask's file, in hexadecimal.
    """

    height: int
    width: int
    offset: int
    image_sha256: str
    mask_sha256: str

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width


class PackedStore:
    """Read-only access to a store that :func:`pack` wrote.

    A split lies in a directory of its own and is opened when it is asked for, so that a stage
    depends on the splits that it reads and on no other. All processes of a machine share the same
    pages of memory. It can be pickled and forked: what travels is the path.

    Args:
        path: The store's directory.

    Raises:
        SegopsError: There is no whole store of this version at `path`; so do the methods for the
            split that they open.

    Attributes:
        path: As given.
        class_names: Names of the classes in id order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[str, _Split] = {}
        present = [split for split in SPLITS if (path / split / INDEX).is_file()]
        self.class_names = self._split(present[0] if present else SPLITS[0]).class_names

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedStore, (self.path,)

    def ids(self, split: str) -> tuple[str, ...]:
        """Image ids of `split` (``train`` or ``val``), sorted."""
        return tuple(self._split(split).entries)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, 3), RGB, at its original size; a read-only view of the file.

        Raises:
            KeyError: There is no such image.
        """
        split, entry = self._find(image_id)
        start = entry.offset * CHANNELS
        flat = split.images[start : start + entry.pixels * CHANNELS]
        return flat.reshape(entry.height, entry.width, CHANNELS)

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """The image's mask, uint8 (H, W), ids as stored and 255 for void; a read-only view.

        Raises:
            KeyError: There is no such image.
        """
        split, entry = self._find(image_id)
        flat = split.masks[entry.offset : entry.offset + entry.pixels]
        return flat.reshape(entry.height, entry.width)

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        entry = self._find(image_id)[1]
        return entry.height, entry.width

    def image_sha256(self, image_id: str) -> str:
        """SHA-256 of the image's file, in hexadecimal."""
        return self._find(image_id)[1].image_sha256

    def mask_sha256(self, image_id: str) -> str:
        """SHA-256 of the mask's file, in hexadecimal."""
        return self._find(image_id)[1].mask_sha256

    def split_hash(self, split: str) -> str:
        """Hash of the images and masks of `split` and of the class names, in hexadecimal."""
        return dataset_hash(_rows(split, self._split(split).entries), self.class_names)

    @property
    def data_hash(self) -> str:
        """Hash of all images and masks, splits and class names; it opens every split."""
        rows = (row for split in SPLITS for row in _rows(split, self._split(split).entries))
        return dataset_hash(rows, self.class_names)

    def _split(self, split: str) -> _Split:
        if split not in self._opened:
            self._opened[split] = _Split(self.path / split)
        return self._opened[split]

    def _find(self, image_id: str) -> tuple[_Split, Entry]:
        for name in (*self._opened, *SPLITS):
            split = self._split(name)
            if image_id in split.entries:
                return split, split.entries[image_id]
        raise KeyError(image_id)


class _Split:
    """One split's directory, mapped into memory."""

    def __init__(self, path: Path) -> None:
        index = read_json(path / INDEX)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise SegopsError(
                f"{path / INDEX}: expected a packed store of format {FORMAT}. "
                "`dvc repro --force prepare` makes it anew."
            )
        self.class_names: tuple[str, ...] = tuple(index["classes"])
        self.entries = {name: Entry(**entry) for name, entry in index["images"].items()}
        pixels = sum(entry.pixels for entry in self.entries.values())
        self.images = _mapped(path / IMAGES, pixels * CHANNELS)
        self.masks = _mapped(path / MASKS, pixels)


def pack(
    layout: Layout,
    target: Path,
    class_names: Sequence[str],
    *,
    expected_hash: str | None = None,
    workers: int = 1,
) -> None:
    """Decode every listed image and mask into a packed store at `target`.

    The same data gives the same bytes, in whatever order its lists name the images. The store takes
    `target`'s place whole or not at all; what a killed run left beside it is removed. Memory does
    not grow with the number of images.

    Args:
        layout: The data set.
        target: Directory of the store.
        class_names: Names of the classes in id order.
        expected_hash: The data hash that was validated.
        workers: Threads that decode (decoding releases the interpreter's lock).

    Raises:
        SegopsError: A file is missing or not decodable, an image and its mask differ in size or an
            image is in both splits (all of them are listed), or the data is not that of
            `expected_hash`, or the disk is full.
    """
    _remove_leftovers(target)
    with atomic_directory(target) as directory:
        try:
            splits = _write_pixels(layout, directory, workers)
            rows = (row for split, entries in splits.items() for row in _rows(split, entries))
            found = dataset_hash(rows, class_names)
            if expected_hash is not None and found != expected_hash:
                raise SegopsError(
                    f"{layout.root}: not the data that was validated: its hash is {found}, "
                    f"the verdict's is {expected_hash}. `dvc repro validate` validates it anew."
                )
            for split, entries in splits.items():
                content = {
                    "format": FORMAT,
                    "classes": list(class_names),
                    "images": {name: asdict(entry) for name, entry in entries.items()},
                }
                write_json(directory / split / INDEX, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SegopsError(
                f"{target}: the disk is full. The store needs three bytes for each pixel of the "
                "images and one for each of the masks; free space or move the workspace."
            ) from error


class _Decoded(NamedTuple):
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    image_sha256: str
    mask_sha256: str


def _write_pixels(layout: Layout, directory: Path, workers: int) -> dict[str, dict[str, Entry]]:
    """Write the pixels of every split; returns its entries by image id."""
    splits: dict[str, dict[str, Entry]] = {}
    faults: list[str] = []
    seen: set[str] = set()
    for split, ids in layout.splits().items():
        entries = splits[split] = {}
        (directory / split).mkdir()
        offset = 0
        with (
            (directory / split / IMAGES).open("wb") as images,
            (directory / split / MASKS).open("wb") as masks,
        ):
            decoded = _decode_all(layout, sorted(ids), workers)
            progress = track(decoded, f"Packing {split}", len(ids))
            for image_id, found in zip(sorted(ids), progress, strict=True):
                if isinstance(found, SegopsError):
                    faults.append(f"  {found}")
                    continue
                if image_id in seen:
                    faults.append(f"  {image_id}: in both splits")
                    continue
                seen.add(image_id)
                height, width = found.mask.shape
                entries[image_id] = Entry(
                    height, width, offset, found.image_sha256, found.mask_sha256
                )
                offset += found.mask.size
                if not faults:
                    images.write(found.image.data)
                    masks.write(found.mask.data)
    if faults:
        raise SegopsError("\n".join([f"{layout.root}: {len(faults)} image(s) unusable:", *faults]))
    return splits


def _decode_all(
    layout: Layout, image_ids: Iterable[str], workers: int
) -> Iterator[_Decoded | SegopsError]:
    """Decode in parallel, in order, never more than a few images ahead of who takes them."""
    waiting: deque[Future[_Decoded | SegopsError]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for image_id in image_ids:
            waiting.append(pool.submit(_decode, layout, image_id))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(layout: Layout, image_id: str) -> _Decoded | SegopsError:
    image_path, mask_path = layout.image_path(image_id), layout.mask_path(image_id)
    try:
        image_bytes, mask_bytes = read_content(image_path), read_content(mask_path)
        image = decode_image(image_bytes, str(image_path))
        mask = decode_mask(mask_bytes, str(mask_path))
    except SegopsError as error:
        return error
    if image.shape[:2] != mask.shape:
        return SegopsError(
            f"{image_id}: image of {image.shape[1]} x {image.shape[0]} pixels, mask of "
            f"{mask.shape[1]} x {mask.shape[0]}; expected the same size. "
            "Make the mask anew from this very image."
        )
    return _Decoded(image, mask, sha256_bytes(image_bytes), sha256_bytes(mask_bytes))


def _rows(split: str, entries: dict[str, Entry]) -> Iterator[HashRow]:
    """What the hash of a data set is made of, for one split."""
    for name, entry in entries.items():
        yield split, name, entry.image_sha256, entry.mask_sha256


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        found = -1
    if found != size:
        state = "missing" if found < 0 else f"{found} bytes long, expected {size}"
        raise SegopsError(f"{path}: {state}. `dvc repro --force prepare` makes it anew.")
    # The plain view spares every slice the bookkeeping of numpy.memmap.
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{target.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
