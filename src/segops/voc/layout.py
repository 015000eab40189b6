"""Paths and lists in a directory of VOC layout.

VOC's photographs are JPEG. segops takes PNG, TIFF and WebP too, under the same names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from segops.runtime.errors import SegopsError
from segops.runtime.images import read_file
from segops.voc.reading import READ_AS_SHIPPED, Reading

IMAGES = "JPEGImages"
MASKS = "SegmentationClass"
LISTS = "ImageSets/Segmentation"
TRAIN, VAL = SPLITS = ("train", "val")
TEST = "test"
"""A split that is scored when a person asks for it, and chooses nothing. It may be missing."""
ALL_SPLITS = (*SPLITS, TEST)
UNLABELLED = "unlabelled"
"""The images without masks, in a packed store; their list has the name of ``data.unlabelled``."""
PHOTOGRAPH_SUFFIXES = {
    ".jpg": ".jpg",
    ".jpeg": ".jpg",
    ".png": ".png",
    ".tif": ".tif",
    ".tiff": ".tif",
    ".webp": ".webp",
}
"""Suffix of a photograph, in lower case -> its spelling in a layout."""
BAND_SUFFIXES = {".png": ".png", ".tif": ".tif", ".tiff": ".tif"}
"""Suffix of a file of a further directory, in lower case -> its spelling in a layout."""


@dataclass(frozen=True)
class Layout:
    """A data set in VOC layout; :func:`open_layout` checks it first.

    Attributes:
        root: The directory that holds ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        reading: How its files are read.
        unlabelled: Name of the list of images without masks; None: there is none.
    """

    root: Path
    reading: Reading = READ_AS_SHIPPED
    unlabelled: str | None = None

    def image_path(self, image_id: str) -> Path:
        """Path of an image's photograph; ``ID.jpg`` where there is none."""
        return _existing(self.root / IMAGES, image_id, PHOTOGRAPH_SUFFIXES)

    def band_paths(self, image_id: str) -> tuple[Path, ...]:
        """Paths of an image's further bands, ``DIRECTORY/ID.png`` where there is none."""
        return tuple(
            _existing(self.root / directory, image_id, BAND_SUFFIXES)
            for directory in self.reading.bands.directories
        )

    def image_sha256(self, image_id: str, sha256: Callable[[Path], str]) -> str:
        """The hash of an image, from the hashes of its files that `sha256` gives."""
        paths = self.image_path(image_id), *self.band_paths(image_id)
        return self.reading.bands.sha256([sha256(path) for path in paths])

    def mask_path(self, image_id: str) -> Path:
        """Path of an image's mask."""
        return self.root / MASKS / f"{image_id}.png"

    def list_path(self, split: str) -> Path:
        """Path of the list of a split's images, one id a line."""
        return self.root / LISTS / f"{split}.txt"

    def ids(self, split: str) -> tuple[str, ...]:
        """The image ids of `split`, in the order of its list.

        Raises:
            SegopsError: The list is missing, is not text, is empty, names an id twice, or holds a
                line that cannot be an id.
        """
        return read_list(self.list_path(split))

    def write_list(self, split: str, ids: Iterable[str]) -> None:
        """Write the list of `split`; its directory is made where missing."""
        path = self.list_path(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")

    def splits(self) -> dict[str, tuple[str, ...]]:
        """The image ids of ``train``, ``val`` and, where it can be scored, ``test``.

        See :meth:`ids`, and :meth:`test_without_masks` for a test that cannot be scored.
        """
        splits = {split: self.ids(split) for split in SPLITS}
        if self.list_path(TEST).is_file() and not self.test_without_masks():
            splits[TEST] = self.ids(TEST)
        return splits

    def listed(self) -> frozenset[str]:
        """The image ids of all lists: ``train``, ``val``, ``test`` and that of ``unlabelled``.

        They include those of a test that cannot be scored, unlike :meth:`splits`. See :meth:`ids`.
        """
        tested = self.ids(TEST) if self.list_path(TEST).is_file() else ()
        known = (*SPLITS, *(() if self.unlabelled is None else (self.unlabelled,)))
        return frozenset(tested).union(*map(self.ids, known))

    def unlabelled_ids(self) -> tuple[str, ...]:
        """The image ids of the list of images without masks; none without such a list.

        Raises:
            SegopsError: As :meth:`ids`.
        """
        return () if self.unlabelled is None else self.ids(self.unlabelled)

    def test_without_masks(self) -> list[str]:
        """The image ids of ``test`` that have no mask; none where there is no list.

        A test split is scored whole or not at all.
        """
        ids = self.ids(TEST) if self.list_path(TEST).is_file() else ()
        return [image_id for image_id in ids if not self.mask_path(image_id).is_file()]

    def unscored_test(self) -> tuple[str, ...]:
        """All image ids of a ``test`` that is not among the :meth:`splits`; none where it is."""
        return self.ids(TEST) if self.test_without_masks() else ()


def _existing(directory: Path, image_id: str, suffixes: Mapping[str, str]) -> Path:
    """An image's file in a directory; that of the first suffix where there is none."""
    spellings = [*dict.fromkeys(suffixes.values())]
    for suffix in spellings:
        path = directory / f"{image_id}{suffix}"
        if path.exists():
            return path
    return directory / f"{image_id}{spellings[0]}"


def open_layout(
    root: Path, reading: Reading = READ_AS_SHIPPED, unlabelled: str | None = None
) -> Layout:
    """Check that `root` has VOC layout and that its lists can be used.

    Stage validate checks that every listed image and mask exists and is sound; stage prepare checks
    those of the list `unlabelled`.

    Raises:
        SegopsError: Directories or lists are missing, lists are empty or name an id twice, or ids
            are no file names, or an image has several photographs; the message has a line for each.
    """
    if not root.is_dir():
        raise SegopsError(
            f"{root}: no such directory. `dvc pull data/voc.dvc` brings the sample; "
            "`segops data use PATH` or `segops data fetch voc2012` put other data in its place."
        )
    layout = Layout(root, reading, unlabelled)
    findings = [
        SegopsError(f"{root / name}: no such directory")
        for name in (IMAGES, MASKS)
        if not (root / name).is_dir()
    ]
    findings += [
        SegopsError(
            f"{root / name}: no such directory (data.bands). `segops data use PATH` and "
            "`segops data import` bring it from beside the images"
        )
        for name in reading.bands.directories
        if not (root / name).is_dir()
    ]
    listed: dict[str, None] = {}
    for split in (*ALL_SPLITS, *(() if unlabelled is None else (unlabelled,))):
        if split == TEST and not os.path.lexists(layout.list_path(TEST)):
            continue
        ids, errors = _read_list(layout.list_path(split))
        if errors and split == unlabelled:
            errors = [SegopsError(f"{error} (data.unlabelled: {unlabelled})") for error in errors]
        findings += errors
        listed |= dict.fromkeys(ids)
    if (root / IMAGES).is_dir():
        findings += _rivals(root / IMAGES, listed)
    if findings:
        lines = "\n".join(f"  {finding}" for finding in findings)
        raise SegopsError(f"{root}: not a data set in VOC layout:\n{lines}{_meant(root)}")
    return layout


def _rivals(images: Path, listed: Collection[str]) -> list[SegopsError]:
    """An error for each listed image with several photographs."""
    suffixes = set(PHOTOGRAPH_SUFFIXES.values())
    photographs: dict[str, list[str]] = {}
    for path in sorted(images.iterdir()):
        if path.suffix in suffixes and path.stem in listed:
            photographs.setdefault(path.stem, []).append(path.name)
    return [
        SegopsError(f"{images / names[0]}: also {', '.join(names[1:])}; keep one of them")
        for names in photographs.values()
        if len(names) > 1
    ]


def _meant(root: Path) -> str:
    """A line that names the data sets a level or two below `root`, if there are any."""
    inner = [path.parents[1] for depth in ("*", "*/*") for path in root.glob(f"{depth}/{LISTS}")]
    return f"\nDid you mean {', '.join(map(str, sorted(inner)))}?" if inner else ""


def read_list(path: Path) -> tuple[str, ...]:
    """The image ids of a list, one a line.

    Raises:
        SegopsError: As :meth:`Layout.ids`.
    """
    ids, findings = _read_list(path)
    if findings:
        raise SegopsError("\n".join(map(str, findings)))
    return ids


def _read_list(path: Path) -> tuple[tuple[str, ...], list[SegopsError]]:
    """The ids in a list, and its errors."""
    try:
        # Lists made on Windows may begin with a byte order mark.
        text = read_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        return (), [SegopsError(f"{path}: no such file; expected one image id a line")]
    except (OSError, UnicodeDecodeError) as error:
        return (), [SegopsError(f"{path}: not readable as text: {error}")]
    ids = tuple(stripped for line in text.splitlines() if (stripped := line.strip()))
    if not ids:
        return (), [SegopsError(f"{path}: names no image; expected one image id a line")]
    findings = [
        SegopsError(
            f"{path}: {image_id!r} is no image id; expected a file name without directory or suffix"
        )
        for image_id in dict.fromkeys(ids)
        if not is_id(image_id)
    ]
    findings += [
        SegopsError(f"{path}: {image_id} is given {count} times")
        for image_id, count in Counter(ids).items()
        if count > 1
    ]
    return ids, findings


def is_id(name: str) -> bool:
    """Say whether a name can be an image's id: a file name without directory or suffix."""
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\\0")
