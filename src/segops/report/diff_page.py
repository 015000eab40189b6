"""The page that shows what changed from one version of a data set to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.quality.data_changes import (
    VOID_LABEL,
    Changed,
    DataChanges,
    Relabelled,
    Version,
    joint_labels,
)
from segops.report.gallery import shrunk
from segops.report.html import number, photograph, render
from segops.report.overlay import legend, overlay, present
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.bands import read_picture
from segops.words import counted

SIDE = 360
"""Pixels of a picture's longer side."""
MOST_CHANGED = 40
MOST_OTHERS = 12
"""Pictures of images that were added, and of those that were removed."""
MOST_IDS = 300
"""Most ids that a list names."""
MOST_PAIRS = 4
"""Most pairs of classes that a sentence names."""
DIFFERS = (214, 0, 147)
"""RGB of the pixels that have another class."""


def sentences(changes: DataChanges) -> list[str]:
    """What changed, in words."""
    if changes.is_empty and not changes.rewritten:
        return ["Nothing changed: the same images in the same splits, with the same labels."]
    found = []
    for ids, what in ((changes.added, "added"), (changes.removed, "removed")):
        if ids:
            by_split = Counter(split for _, split in ids)
            each = ", ".join(f"{count} in {split}" for split, count in by_split.items())
            found.append(f"{counted(len(ids), 'image')} {what}: {each}.")
    if changes.moved:
        ways = Counter((old, new) for _, old, new in changes.moved)
        each = ", ".join(f"{count} from {old} to {new}" for (old, new), count in ways.items())
        found.append(f"{counted(len(changes.moved), 'image')} moved between splits: {each}.")
    for kind in ("mask", "photograph"):
        changed = sum(getattr(one, kind) == "changed" for one in changes.changed)
        if changed:
            found.append(f"{counted(changed, kind)} changed.")
    pixels = sum(one.pixels for one in changes.relabelled)
    if pixels:
        found.append(
            f"{number(pixels)} pixels of changed masks have another class: "
            f"{_pairs(changes.relabelled)}."
        )
    if changes.rewritten:
        found.append(
            f"{counted(changes.rewritten, 'image')} saved again: other bytes, the same content."
        )
    if changes.unreadable:
        found.append(
            f"{counted(len(changes.unreadable), 'mask')} not readable and in no count of pixels; "
            f"the first: {changes.unreadable[0]}"
        )
    return found


def class_rows(changes: DataChanges) -> list[dict[str, Any]]:
    """Pixels of each class in all splits: its `name`, pixels and share `before` and `after`.

    Shares are of all pixels but void, in 0..1; that of void is of all pixels.
    """
    before, after = (
        sum((pair[side] for pair in changes.pixels.values()), Counter[str]()) for side in (0, 1)
    )
    rows = []
    for name in changes.labels:
        row: dict[str, Any] = {"name": name}
        for key, counts in (("before", before), ("after", after)):
            row[key] = counts[name]
            row[f"{key}_share"] = _share(counts, name)
        rows.append(row)
    return rows


def write_diff_page(
    path: Path,
    changes: DataChanges,
    before: Version,
    after: Version,
    *,
    revision: str,
    commit: str,
    pictures: bool,
) -> None:
    """Write the page; a picture at a time is in memory.

    Args:
        path: The HTML file.
        changes: What changed.
        before: The earlier version.
        after: The later version.
        revision: The earlier version as the user names it.
        commit: Its commit.
        pictures: False leaves photographs and masks out.
    """
    drawing = _Drawing(before, after)
    shown = changes.changed[:MOST_CHANGED]
    others = {
        what: [
            {
                "image_id": image_id,
                "split": split,
                "panels": drawing.whole(image_id, side) if pictures else [],
            }
            for image_id, split in ids[:MOST_OTHERS]
        ]
        for what, ids, side in (("added", changes.added, 1), ("removed", changes.removed, 0))
    }
    items = [
        {
            "image_id": one.image_id,
            "split": one.split,
            "text": _text(one),
            "panels": drawing.changed(one) if pictures else [],
        }
        for one in shown
    ]
    context: dict[str, Any] = {
        "revision": revision,
        "commit": commit,
        "sentences": sentences(changes),
        "is_empty": changes.is_empty,
        "images": changes.images,
        "changes": changes,
        "masks": sum(one.mask == "changed" for one in changes.changed),
        "photographs": sum(one.photograph == "changed" for one in changes.changed),
        "rows": class_rows(changes),
        "splits": [
            {
                "name": split,
                "rows": {
                    name: tuple(_share(counts, name) for counts in changes.pixels[split])
                    for name in changes.labels
                },
            }
            for split in changes.images
            if split in changes.pixels
        ],
        "items": items,
        "others": others,
        "most_ids": MOST_IDS,
        "colours": drawing.legend(),
    }
    write_text(path, render("data_diff.html", **context))


def _share(counts: Counter[str], name: str) -> float | None:
    whole = counts.total() - (0 if name == VOID_LABEL else counts[VOID_LABEL])
    return counts[name] / whole if whole else None


def _pairs(pairs: Sequence[Relabelled]) -> str:
    named = ", ".join(
        f"{one.before} → {one.after} {number(one.pixels)}" for one in pairs[:MOST_PAIRS]
    )
    more = len(pairs) - MOST_PAIRS
    return f"{named} and {counted(more, 'other pair')}" if more > 0 else named


def _text(one: Changed) -> str:
    parts = []
    if one.mask == "changed" and one.pixels:
        parts.append(f"{number(one.pixels)} pixels differ: {_pairs(one.relabelled)}")
    if one.photograph == "changed":
        parts.append("another photograph")
    if one.note:
        parts.append(one.note)
    return "; ".join(parts)


class _Drawing:
    """Draws the images of two versions, each class in the colour of the later version."""

    def __init__(self, before: Version, after: Version) -> None:
        self._sides = before, after
        self._labels, self._tables = joint_labels(before, after)
        names = self._labels[:VOID]
        for place, name in enumerate(self._labels[VOID + 1 :]):
            names[VOID - 1 - place] = name
        self._classes = replace(after.classes, names=tuple(names))
        self._ids: set[int] = set()

    def changed(self, one: Changed) -> list[dict[str, str]]:
        """Both versions of an image and, where they can be laid over one another, the pixels."""
        before, after = (self._read(one.image_id, side) for side in (0, 1))
        panels = [self._panel(*before, "before"), self._panel(*after, "now")]
        (_, old), (image, new) = before, after
        if one.pixels and image is not None and old is not None and new is not None:
            differs = old != new
            if differs.shape == image.shape[:2]:
                panels.append({"text": "what differs", "source": _marked(image, differs)})
        return panels

    def whole(self, image_id: str, side: int) -> list[dict[str, str]]:
        """An image of one version with its mask."""
        return [self._panel(*self._read(image_id, side), "")]

    def legend(self) -> list[dict[str, Any]]:
        """Entries for the ids that were drawn."""
        return legend(sorted(self._ids), self._classes)

    def _read(
        self, image_id: str, side: int
    ) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
        """Photograph and mask of a version, classes by the later version's ids; None: unreadable.

        Classes that only the earlier version has get the last ids.
        """
        layout = self._sides[side].layout
        limits = layout.reading.photographs
        image: NDArray[np.uint8] | None = None
        mask: NDArray[np.uint8] | None = None
        with suppress(SegopsError):
            image = read_picture(layout, image_id)
        with suppress(SegopsError):
            labels = self._tables[side][read_mask(layout.mask_path(image_id), limits)]
            mask = np.where(labels > VOID, 2 * VOID - labels, labels).astype(np.uint8)
            self._ids.update(present([mask]))
        return image, mask

    def _panel(
        self, image: NDArray[np.uint8] | None, mask: NDArray[np.uint8] | None, text: str
    ) -> dict[str, str]:
        if image is None:
            return {"text": f"{text} photograph not readable".strip(), "source": ""}
        size = shrunk(image.shape[:2], SIDE)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        if mask is not None and mask.shape == image.shape[:2]:
            labels = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
            small = overlay(small, labels, self._classes)
        return {"text": text, "source": photograph(small, SIDE)}


def _marked(image: NDArray[np.uint8], differs: NDArray[np.bool_]) -> str:
    """A grey picture with the pixels that differ; also a single one can be seen."""
    size = shrunk(differs.shape, SIDE)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small.astype(np.uint8), cv2.COLOR_RGB2GRAY) // 2 + 100
    marked = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    share = cv2.resize(differs.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    marked[share > 0] = DIFFERS
    return photograph(marked, SIDE)
