"""Packs a data set: decodes every image and mask once, into the files of a packed store."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from segops.children import MANY
from segops.data.channel_statistics import ChannelStatistics, measured
from segops.data.packed_pixels import Place, Target, write, write_apart
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
from segops.files import atomic_directory, read_json, write_json
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE
from segops.threads import pipelined
from segops.voc.decoding import decoded_size, pixels_of
from segops.voc.hashes import dataset_hash, unscored_test_hashes
from segops.voc.layout import SPLITS, TEST, TRAIN, UNLABELLED, Layout
from segops.voc.metadata import Metadata

WAITING = 32
"""Images a thread may have before it while written pages are flushed."""
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
    `target` whole or not at all. Memory does not grow with the number of images: `PIXELS_AT_ONCE`
    pixels are decoded at a time at most, but for a larger image, and written strip by strip.

    Args:
        layout: The data set.
        target: Directory of the store.
        class_names: Names of the classes in id order.
        expected_hash: The data hash that was validated.
        expected_test: The hash of ``test`` that was validated; None: there was none.
        workers: Threads that decode, or processes from `MANY` images of a split on.
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
        ):
            files = Target(images.fileno(), None if masks is None else masks.fileno())
            flushed = 0

            def write_one(place: Place, target: Target = files) -> StoredImage | SegopsError:
                try:
                    return write(layout, place, target, only_check=bool(faults))
                except SegopsError as error:
                    return error

            written: Iterator[StoredImage | SegopsError]
            if workers > 1 and len(ids) >= MANY:
                paths = [None if file is None else Path(file.name) for file in (images, masks)]
                written = _in_processes(layout, ordered, paths, workers, write_one)
            else:
                written = pipelined(
                    _places(layout, ordered),
                    write_one,
                    max(1, workers),
                    WAITING * workers,
                    size=partial(_pixels, layout),
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
                        _flush(files)
                        flushed = end
    _refuse(layout, faults)
    return splits


def _in_processes(
    layout: Layout,
    ids: Sequence[str],
    files: Sequence[Path | None],
    workers: int,
    write_one: Callable[[Place], StoredImage | SegopsError],
) -> Iterator[StoredImage | SegopsError]:
    """Yield what becomes of images that other processes write; `write_one` writes the large ones.

    Much of the work is short calls that hold Python's lock, for which threads wait.
    """
    places = list(_places(layout, ids))
    written = write_apart(layout, places, files, workers, PIXELS_AT_ONCE)
    for place, entry in zip(places, written, strict=True):
        yield write_one(place) if entry is None else entry


def _pixels(layout: Layout, place: Place) -> int:
    return pixels_of(layout, place.image_id, (place.width, place.height))


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


def _flush(files: Target) -> None:
    """Wait until the disk has what is written, and take it out of the system's page cache.

    A store larger than memory would push out what other programs use, and a page that is used
    again costs a fraction of a new one, above all in a virtual machine. While this function waits
    the threads go on.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in (one for one in files if one is not None):
        os.fdatasync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _places(layout: Layout, ids: Sequence[str]) -> Iterator[Place]:
    """The places of images one after the other."""
    offset = 0
    for image_id in ids:
        width, height = decoded_size(layout, layout.image_path(image_id))
        yield Place(image_id, offset, width, height)
        offset += width * height
