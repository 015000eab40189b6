"""What changed from one version of a data set to another."""

from __future__ import annotations

import filecmp
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops.progress import track
from segops.runtime.classes import VOID, Classes
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE
from segops.runtime.masks import read_mask
from segops.threads import pipelined
from segops.voc.bands import read_pixels
from segops.voc.decoding import pixels_of
from segops.voc.layout import Layout

VOID_LABEL = "void (id 255)"
_NO_CLASS = re.compile(rf"(class )*(id \d+|{re.escape(VOID_LABEL)})")
State = Literal["same", "bytes", "changed", "unreadable"]
"""Of a file: the same bytes; other bytes, the same content; another content; not to be compared."""


@dataclass(frozen=True)
class Version:
    """A version of a data set: its files and its classes."""

    layout: Layout
    classes: Classes

    def labels(self) -> list[str]:
        """What each id in the masks means, 0 to 255."""
        names = [*map(_label, self.classes.names)]
        return [
            VOID_LABEL if label == VOID else names[label] if label < len(names) else f"id {one}"
            for one, label in enumerate(self.layout.reading.mask_ids.table)
        ]


class Relabelled(NamedTuple):
    """Pixels of a class that now are of another."""

    before: str
    after: str
    pixels: int


@dataclass(frozen=True)
class Changed:
    """An image that both versions list, with another photograph or mask.

    Attributes:
        image_id: Its id.
        split: Its split now.
        photograph: What became of its photograph.
        mask: What became of its mask; the names of the classes are compared, not their ids.
        pixels: How many pixels of the mask have another class; None where sizes differ.
        relabelled: Their classes, the most pixels first.
        note: What could not be compared, and why; else empty.
    """

    image_id: str
    split: str
    photograph: State
    mask: State
    pixels: int | None = 0
    relabelled: tuple[Relabelled, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class DataChanges:
    """The difference of two versions of a data set.

    Attributes:
        images: Number of images before and after, by split.
        added: Id and split of each image that only the later version lists.
        removed: Those that only the earlier version lists.
        moved: Id, former and present split of each image in another split.
        changed: Images of both versions with another photograph or mask, by the number of pixels
            that have another class, falling.
        rewritten: How many images have other bytes of the same content.
        pixels: Pixels by class before and after, by split; void is `VOID_LABEL`.
        labels: The classes that these counts name, in the order of the later version.
        unreadable: Masks that could not be read and are in no count, with the reason.
    """

    images: dict[str, tuple[int, int]]
    added: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]
    moved: tuple[tuple[str, str, str], ...]
    changed: tuple[Changed, ...]
    rewritten: int
    pixels: dict[str, tuple[Counter[str], Counter[str]]]
    labels: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing that is trained on or judged by changed."""
        return not (self.added or self.removed or self.moved or self.changed)

    @property
    def relabelled(self) -> tuple[Relabelled, ...]:
        """All pixels of changed masks that have another class, the most first."""
        return _ordered(one for changed in self.changed for one in changed.relabelled)


@dataclass
class _Judged:
    """What is found of an image: its change, and the pixels of its masks by joint label."""

    changed: Changed | None
    pixels: list[NDArray[np.int64] | None] = field(default_factory=lambda: [None, None])
    unreadable: list[str] = field(default_factory=list)


def compare(before: Version, after: Version, threads: int = 1) -> DataChanges:
    """Compare two versions; photographs are decoded only where their bytes differ.

    Args:
        before: The earlier version.
        after: The later version.
        threads: Threads that decode `PIXELS_AT_ONCE` pixels at a time at most.

    Raises:
        SegopsError: A list of images cannot be read.
    """
    sides = before, after
    places = [_places(side.layout) for side in sides]
    labels, tables = joint_labels(before, after)
    ids = sorted(places[0].keys() | places[1].keys())

    def judge(image_id: str) -> _Judged:
        return _judge(image_id, sides, places, labels, tables)

    results = pipelined(
        ids,
        judge,
        max(1, threads),
        4 * max(1, threads),
        size=lambda one: sum(pixels_of(side.layout, one) for side in sides),
        limit=PIXELS_AT_ONCE,
    )
    pixels: dict[str, tuple[Counter[str], Counter[str]]] = {}
    changed: list[Changed] = []
    unreadable: list[str] = []
    for image_id, one in zip(ids, track(results, "Comparing images", len(ids)), strict=True):
        if one.changed is not None:
            changed.append(one.changed)
        unreadable += one.unreadable
        for number, (place, counts) in enumerate(zip(places, one.pixels, strict=True)):
            if image_id in place and counts is not None:
                total = pixels.setdefault(place[image_id], (Counter(), Counter()))[number]
                for label in np.flatnonzero(counts):
                    total[labels[label]] += int(counts[label])
    real = [one for one in changed if {one.photograph, one.mask} & {"changed", "unreadable"}]
    old, new = places
    splits = dict.fromkeys([*new.values(), *old.values()])
    return DataChanges(
        images={
            split: (list(old.values()).count(split), list(new.values()).count(split))
            for split in splits
        },
        added=tuple((one, new[one]) for one in ids if one not in old),
        removed=tuple((one, old[one]) for one in ids if one not in new),
        moved=tuple(
            (one, old[one], new[one])
            for one in ids
            if one in old and one in new and old[one] != new[one]
        ),
        changed=tuple(sorted(real, key=lambda one: (-(one.pixels or 0), one.image_id))),
        rewritten=len(changed) - len(real),
        pixels=pixels,
        labels=tuple(
            one for one in labels if any(one in part for pair in pixels.values() for part in pair)
        ),
        unreadable=tuple(unreadable),
    )


def _places(layout: Layout) -> dict[str, str]:
    """The split of each image; of one that stands in several, all of them."""
    places: dict[str, str] = {}
    for split, ids in layout.splits().items():
        for image_id in ids:
            held = places.get(image_id)
            places[image_id] = split if held is None else f"{held}, {split}"
    return places


def joint_labels(before: Version, after: Version) -> tuple[list[str], list[NDArray[np.uint16]]]:
    """Labels of both versions, and for each version the number of the label of each id.

    Returns:
        The labels: the classes of the later version in their order, void as number 255, then those
        that only the earlier version has; and for the earlier and the later version a table,
        uint16 (256,), by the ids in its masks.
    """
    names = [*map(_label, after.classes.names)]
    others = (f"id {one}" for one in range(len(names), VOID))
    numbers = {label: number for number, label in enumerate([*names, *others, VOID_LABEL])}
    tables = [
        np.array([numbers.setdefault(label, len(numbers)) for label in version.labels()], np.uint16)
        for version in (after, before)
    ]
    return list(numbers), tables[::-1]


def _label(name: str) -> str:
    """What a class is called here: its name, told apart from the labels of what is no class."""
    return f"class {name}" if _NO_CLASS.fullmatch(name) else name


def _judge(
    image_id: str,
    sides: Sequence[Version],
    places: Sequence[dict[str, str]],
    labels: Sequence[str],
    tables: Sequence[NDArray[np.uint16]],
) -> _Judged:
    judged = _Judged(None)
    held = [number for number in (0, 1) if image_id in places[number]]
    is_both = len(held) == 2
    paths = [side.layout.mask_path(image_id) for side in sides]
    is_same = is_both and np.array_equal(tables[0], tables[1]) and _equal(*paths)
    masks: list[NDArray[np.uint16] | None] = [None, None]
    for number in held:
        if number and is_same:
            masks[1], judged.pixels[1] = masks[0], judged.pixels[0]
            continue
        try:
            mask = read_mask(paths[number], sides[number].layout.reading.photographs)
        except SegopsError as error:
            judged.unreadable.append(f"{('before', 'now')[number]}: {error}")
            continue
        masks[number] = found = tables[number][mask]
        judged.pixels[number] = np.bincount(found.ravel(), minlength=len(labels))
    if is_both:
        judged.changed = _changed(image_id, sides, places[1][image_id], masks, is_same, labels)
    return judged


def _changed(
    image_id: str,
    sides: Sequence[Version],
    split: str,
    masks: Sequence[NDArray[np.uint16] | None],
    is_same: bool,
    labels: Sequence[str],
) -> Changed | None:
    photograph, note = _photograph(image_id, sides)
    mask: State = "same"
    pixels: int | None = 0
    relabelled: tuple[Relabelled, ...] = ()
    if not is_same:
        one, other = masks
        if one is None or other is None:
            mask, note = "unreadable", note or "a mask cannot be read"
        elif one.shape != other.shape:
            mask, pixels = "changed", None
            note = note or f"the mask was {_size(one)} and is {_size(other)} pixels"
        else:
            relabelled = _relabelled(one, other, labels)
            pixels = sum(part.pixels for part in relabelled)
            mask = "changed" if pixels else "bytes"
    if photograph == mask == "same":
        return None
    return Changed(image_id, split, photograph, mask, pixels, relabelled, note)


def _photograph(image_id: str, sides: Sequence[Version]) -> tuple[State, str]:
    before, after = (
        [side.layout.image_path(image_id), *side.layout.band_paths(image_id)] for side in sides
    )
    readings = [side.layout.reading for side in sides]
    is_read_alike = len({(one.bands, one.photographs.bit_depth) for one in readings}) == 1
    if is_read_alike and all(map(_equal, before, after)):
        return "same", ""
    try:
        one, other = (read_pixels(side.layout, image_id) for side in sides)
    except SegopsError as error:
        return "unreadable", str(error)
    return ("bytes" if np.array_equal(one, other) else "changed"), ""


def _equal(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; links to one file are not read."""
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _relabelled(
    one: NDArray[np.uint16], other: NDArray[np.uint16], labels: Sequence[str]
) -> tuple[Relabelled, ...]:
    differ = one != other
    pairs, counts = np.unique(
        one[differ].astype(np.int64) * len(labels) + other[differ], return_counts=True
    )
    return _ordered(
        Relabelled(labels[pair // len(labels)], labels[pair % len(labels)], int(count))
        for pair, count in zip(pairs, counts, strict=True)
    )


def _ordered(parts: Iterator[Relabelled]) -> tuple[Relabelled, ...]:
    total: Counter[tuple[str, str]] = Counter()
    for one in parts:
        total[one.before, one.after] += one.pixels
    ordered = sorted(total.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Relabelled(*pair, pixels) for pair, pixels in ordered)


def _size(mask: NDArray[np.uint16]) -> str:
    return f"{mask.shape[1]} × {mask.shape[0]}"
