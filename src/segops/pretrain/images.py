"""The images of a pretraining: those of train, or of a directory, without masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segops import files
from segops.augment.geometry import Pixels
from segops.data.store import PackedStore
from segops.params.data import DataParams
from segops.predict.sources import list_images
from segops.progress import track
from segops.runtime.bands import decode_consumer_bands, extent
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE, read_content
from segops.threads import cores, pipelined
from segops.voc.hashes import pixel_hash, unscored_test_hashes
from segops.voc.layout import TEST, TRAIN, VAL, Layout

MAX_WORKERS = 8
"""Most threads that decode images."""


@dataclass(frozen=True)
class Images:
    """Images without masks.

    Attributes:
        source: Reads an image by its id with a method `image`, uint8 (H, W, C), and has `channels`.
        ids: Their ids, sorted.
        digest: SHA-256 over them in this order and over how they are read, in hexadecimal.
        held_out: How many of the directory are left out, because they are in val or test.
        repeated: How many are left out, because they repeat another.
    """

    source: Any
    ids: Sequence[str]
    digest: str
    held_out: int = 0
    repeated: int = 0


@dataclass(frozen=True)
class FolderImages:
    """The images of a directory, decoded each time that they are asked for.

    Attributes:
        paths: Their files by their names below the directory.
        channels: Channels of an image.
        max_pixels: As `data.max_pixels`.
        bit_depth: As `data.bit_depth`.
    """

    paths: Mapping[str, Path]
    channels: int
    max_pixels: int
    bit_depth: int | None

    def image(self, image_id: str) -> Pixels:
        """An image, uint8 (H, W, C), upright by its EXIF orientation.

        Raises:
            SegopsError: It cannot be read.
        """
        path = self.paths[image_id]
        limits = self.max_pixels, self.channels, self.bit_depth
        return decode_consumer_bands(read_content(path), str(path), *limits)


def of_train(store: PackedStore) -> Images:
    """The images of train."""
    ids = store.ids(TRAIN)
    hashes = {one: store.pixel_sha256(one) or store.image_sha256(one) for one in ids}
    return Images(store, ids, _digest(store.mapping, hashes))


def of_folder(directory: Path, data: DataParams, store: PackedStore, layout: Layout) -> Images:
    """The images of a directory and of those below it.

    Images whose file or pixels are those of an image of val or test are left out, since a model is
    judged by these; so are images whose pixels are those of one before them. A test that cannot be
    scored is not in the store: its images are known by their files alone.

    Args:
        directory: The directory.
        data: Section `data`.
        store: The packed data set.
        layout: The data set itself.

    Raises:
        SegopsError: There are none, some cannot be read (all are listed), or `data.bands` asks for
            further files.
    """
    bands = data.reading.bands
    if bands.directories:
        raise SegopsError(
            "pretrain.images: images of several files (data.bands) are taken from train alone. Set "
            "it to null."
        )
    paths = {path.relative_to(directory).as_posix(): path for path in _listed(directory)}
    source = FolderImages(paths, bands.total, data.max_pixels, data.bit_depth)

    def look(name: str) -> tuple[str, str] | SegopsError:
        try:
            image = source.image(name)
        except SegopsError as error:
            return error
        digest = pixel_hash([image], image.shape[1], image.shape[0])
        return files.sha256_bytes(read_content(paths[name])), digest

    def size(name: str) -> int:
        width, height = extent(paths[name]) or (0, 0)
        return width * height if width * height <= data.max_pixels else 0

    names = sorted(paths)
    threads = min(MAX_WORKERS, cores())
    looks = pipelined(names, look, threads, 4 * threads, size=size, limit=PIXELS_AT_ONCE)
    judged = _judged(store) | unscored_test_hashes(layout).keys()
    kept: dict[str, str] = {}
    failed: list[str] = []
    held_out = 0
    for name, found in zip(names, track(looks, "Reading images", len(names)), strict=True):
        if isinstance(found, SegopsError):
            failed.append(str(found))
        elif judged & {*found}:
            held_out += 1
        else:
            kept.setdefault(found[1], name)
    if failed:
        raise SegopsError(
            "\n  ".join(["pretrain.images: remove or replace what cannot be read:", *failed])
        )
    if not kept:
        raise SegopsError(
            f"pretrain.images: {directory}: all {len(names)} images are those of val or test, "
            "which a model is judged by. Give others."
        )
    hashes = {name: pixels for pixels, name in kept.items()}  # in the order of the names
    repeated = len(names) - held_out - len(kept)
    return Images(source, [*hashes], _digest(data.reading.lines, hashes), held_out, repeated)


def _digest(reading: Sequence[str], hashes: Mapping[str, str]) -> str:
    """SHA-256 over how files are read, and the images in the order in which they are numbered."""
    return files.sha256_lines([*reading, *(f"{one} {content}" for one, content in hashes.items())])


def _listed(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise SegopsError(
            f"pretrain.images: {directory}: no such directory. Expected images, or null for those "
            "of train."
        )
    found = list_images(directory)
    if not found:
        raise SegopsError(
            f"pretrain.images: {directory}: holds no file. Expected images, or null for those of "
            "train."
        )
    return found


def _judged(store: PackedStore) -> set[str]:
    """Hashes of the files and of the pixels of val and test."""
    ids = [one for split in (VAL, TEST) if store.holds(split) for one in store.ids(split)]
    return {store.image_sha256(one) for one in ids} | {*store.pixel_hashes(ids).values()}
