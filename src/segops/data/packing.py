"""Packs a data set: decodes every image and mask once, into the files of a packed store."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.data.channel_statistics import ChannelStatistics, measured
from segops.data.store import (
    FORMAT,
    IMAGES,
    INDEX,
    MAPPING,
    MASKS,
    METADATA,
    STATISTICS,
    StoredImage,
    StoredSplit,
    hash_rows,
)
from segops.files import atomic_directory, read_json, sha256_bytes, write_json
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE, load_photograph, read_content
from segops.threads import pipelined
from segops.voc.bands import read_bands
from segops.voc.decoding import decoded_size, pixels_of
from segops.voc.hashes import dataset_hash, pixel_hash, unscored_test_hashes
from segops.voc.layout import SPLITS, TEST, TRAIN, UNLABELLED, Layout
from segops.voc.masks import decode_classes
from segops.voc.metadata import Metadata
from segops.voc.pixels import rgb_strips

WAITING = 32
"""Images a thread may have before it while the system holds up the one that takes results."""
FLUSH = 1 << 26
"""Bytes of images after which written pages leave the system's page cache."""


def pack(
    layout: Layout,
    target: Path,
    class_names: Sequence[str],
    *,
    expected_hash: str | None = None,
    expected_test: str | None = None,
    workers: int = 1,
    metadata: Metadata | None = None,
) -> None:
    """Decode every listed image and mask into a packed store at `target`.

    The images of the list ``layout.unlabelled`` have no masks; their split is always there. The
    same data gives the same bytes, in whatever order the lists name the images. The store replaces
    `target` whole or not at all. Memory does not grow with the number of images: threads decode
    `PIXELS_AT_ONCE` pixels at a time at most, and write them strip by strip.

    Args:
        layout: The data set.
        target: Directory of the store.
        class_names: Names of the classes in id order.
        expected_hash: The data hash that was validated.
        expected_test: The hash of ``test`` that was validated; None: there was none.
        workers: Threads that decode (decoding releases the interpreter's lock).
        metadata: What is known of the images. It is kept with the splits that are scored, not with
            train, so that a change of it trains nothing anew.

    Raises:
        SegopsError: A file is missing or not decodable, an image and its mask differ in size, an
            image is in two splits or an unlabelled image is one of another split under another
            name (all of these are listed); or the hashes are not the expected ones; or the disk is
            full.
    """
    bands, mapping = layout.reading.bands, layout.reading.lines
    for leftover in target.parent.glob(f".{target.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    with atomic_directory(target) as directory:
        try:
            splits = _write_pixels(layout, directory, workers)
            _require_unknown(layout, splits)
            rows = (row for split in SPLITS for row in hash_rows(split, splits[split]))
            data_hash = dataset_hash(rows, class_names, mapping)
            test, test_hash = splits.get(TEST), None
            if test is not None:
                test_hash = dataset_hash(hash_rows(TEST, test), class_names, mapping)
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
                if metadata is not None and split not in (TRAIN, UNLABELLED):
                    known = metadata.of(entries)
                    write_json(directory / split / METADATA, asdict(known))
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
    split = StoredSplit(directory)
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
    """Descriptors of the files of a split while threads write to them; None: it has no masks."""

    images: int
    masks: int | None


def _write_pixels(
    layout: Layout, directory: Path, workers: int
) -> dict[str, dict[str, StoredImage]]:
    """Write the pixels of every split; returns the entries of each by image id."""
    bands = layout.reading.bands
    splits: dict[str, dict[str, StoredImage]] = {}
    faults: list[SegopsError] = []
    seen: set[str] = set()
    for split, ids in {**layout.splits(), UNLABELLED: layout.unlabelled_ids()}.items():
        entries = splits[split] = {}
        (directory / split).mkdir()
        ordered = sorted(ids)
        has_masks = split != UNLABELLED
        with (
            (directory / split / IMAGES).open("wb") as images,
            (directory / split / MASKS).open("wb") if has_masks else nullcontext() as masks,
            ThreadPoolExecutor(1, thread_name_prefix="segops-flush") as flusher,
        ):
            files = _Target(images.fileno(), None if masks is None else masks.fileno())
            flushed, flushing = 0, flusher.submit(_flush, files)

            def write(place: _Place, target: _Target = files) -> StoredImage | SegopsError:
                try:
                    return _write(layout, place, target, only_check=bool(faults))
                except SegopsError as error:
                    return error

            written = pipelined(
                _places(layout, ordered),
                write,
                max(1, workers),
                WAITING * workers,
                size=lambda place: pixels_of(layout, place.image_id, (place.width, place.height)),
                limit=PIXELS_AT_ONCE,
            )
            progress = track(written, f"Packing {split}", len(ids))
            for image_id, entry in zip(ordered, progress, strict=True):
                if isinstance(entry, SegopsError):
                    faults.append(entry)
                elif image_id in seen:
                    faults.append(
                        SegopsError(f"{image_id}: in two splits")
                        if has_masks
                        else SegopsError(
                            f"{image_id}: in another split; take it out of the list "
                            f"{layout.unlabelled} (data.unlabelled)"
                        )
                    )
                else:
                    seen.add(image_id)
                    entries[image_id] = entry
                    end = bands.total * (entry.offset + entry.pixels)
                    if end - flushed >= FLUSH:
                        flushing.result()  # the disk is never further behind than this
                        flushed, flushing = end, flusher.submit(_flush, files)
            flushing.result()
    _refuse(layout, faults)
    return splits


def _require_unknown(layout: Layout, splits: Mapping[str, Mapping[str, StoredImage]]) -> None:
    """Refuse unlabelled images that are images of another split, by their files or their pixels.

    A training that learns from an image of val or test would be judged by images that it knows. A
    test that cannot be scored is not decoded: its images are compared by their files alone.
    """
    if not splits[UNLABELLED]:
        return
    owners = {
        digest: (name, split)
        for split, entries in splits.items()
        if split != UNLABELLED
        for name, entry in entries.items()
        for digest in (entry.image_sha256, entry.pixel_sha256)
        if digest is not None
    }
    owners |= {digest: (name, TEST) for digest, name in unscored_test_hashes(layout).items()}
    faults = []
    for name, entry in splits[UNLABELLED].items():
        owner = owners.get(entry.image_sha256) or owners.get(entry.pixel_sha256 or "")
        if owner is not None:
            other, split = owner
            faults.append(
                SegopsError(
                    f"{name}: the same image as {other} of {split}; take it out of the list "
                    f"{layout.unlabelled} (data.unlabelled)"
                )
            )
    _refuse(layout, faults)


def _refuse(layout: Layout, faults: Sequence[SegopsError]) -> None:
    if faults:
        raise SegopsError(
            f"{layout.root}: {len(faults)} image(s) unusable:\n"
            + "\n".join(f"  {one}" for one in faults)
        )


def _flush(files: _Target) -> None:
    """Wait until the disk has what is written, and take it out of the system's page cache.

    A store larger than memory would push out what other programs use, and a page that is used
    again costs a fraction of a new one, above all in a virtual machine. Runs in a thread, while the
    others go on.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in (one for one in files if one is not None):
        os.fdatasync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _places(layout: Layout, ids: Sequence[str]) -> Iterator[_Place]:
    """The places of images one after the other."""
    offset = 0
    for image_id in ids:
        width, height = decoded_size(layout, layout.image_path(image_id))
        yield _Place(image_id, offset, width, height)
        offset += width * height


def _write(layout: Layout, place: _Place, target: _Target, *, only_check: bool) -> StoredImage:
    """Decode an image, then its mask, and write each to its place in the split `target`.

    The image is gone before its mask is decoded. With `only_check` nothing is written, and all is
    checked. Runs in a thread.
    """
    path = layout.image_path(place.image_id)
    if target.masks is None and not path.exists():  # stage validate has looked for the others
        raise SegopsError(
            f"{path}: no such file. Put the image there, or correct the list {layout.unlabelled} "
            "(data.unlabelled): an id is a file's name without suffix."
        )
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
