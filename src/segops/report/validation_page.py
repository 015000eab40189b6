"""The page that shows whether a data set is fit for training, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.files import write_text
from segops.report import svg
from segops.report.html import photograph, render
from segops.report.overlay import colours, legend, overlay
from segops.runtime.classes import VOID, Classes
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.bands import read_picture
from segops.voc.layout import ALL_SPLITS, SPLITS, TRAIN, Layout

if TYPE_CHECKING:
    from segops.quality.checks import Validation

MAX_OFFENDERS = 60
MAX_DUPLICATES = 30
SAMPLES = 12
THUMBNAIL = 240


@dataclass(frozen=True)
class Panel:
    """Half of a thumbnail: a data URI, or the words that stand in its place."""

    source: str | None
    text: str


def write_validation_page(
    path: Path,
    validation: Validation,
    facts: pd.DataFrame,
    layout: Layout,
    classes: Classes,
    *,
    pictures: bool,
    max_void_fraction: float,
    data_hash: str,
) -> None:
    """Write the page; the same inputs give the same bytes.

    Args:
        path: The HTML file.
        validation: What was expected and found.
        facts: The facts table of the data set; it may have no rows.
        layout: Where the pictures are.
        classes: The classes with their colours and background.
        pictures: False leaves photographs and masks out.
        max_void_fraction: The bound to draw in the histogram of void, in [0, 1].
        data_hash: Hash of the data, shown at the end.
    """
    splits = [
        {"name": split, "images": int((facts["split"] == split).sum())}
        for split in dict.fromkeys((*SPLITS, *_held_splits(facts)))
    ]
    checks, messages = validation.checks, validation.findings
    labels = _labels(facts)
    draw = partial(_card, layout, classes)
    context: dict[str, Any] = {
        "passed": validation.passed,
        "checks": checks,
        "warnings": validation.warnings,
        "failed": sum(not check.passed for check in checks),
        "findings": sum(len(check.findings) for check in checks),
        "files": len(messages),
        "splits": splits,
        "rows": len(facts),
        "classes": _class_rows(labels, classes, splits),
        "background": classes.background_name,
        "classes_in_train": labels[
            (labels["split"] == TRAIN) & (labels["label"] < len(classes.names))
        ]["label"].nunique(),
        "void": _void_share(labels),
        "size": _size(facts),
        "data_hash": data_hash,
        "duplicates": [
            {
                "pair": pair,
                "panels": [_photograph(layout, one) for one in (pair.image_id, pair.other_id)]
                if pictures
                else [],
            }
            for pair in validation.duplicates[:MAX_DUPLICATES]
        ],
        "all_duplicates": len(validation.duplicates),
        "offending": 0,
        "offenders": [],
        "samples": [],
        "sample_legend": [],
    }
    if len(facts):
        context |= _charts(facts, max_void_fraction)
    if pictures:
        offending = facts[facts["image_path"].isin(messages) | facts["mask_path"].isin(messages)]
        context["offending"] = len(offending)
        shown = offending.head(MAX_OFFENDERS).to_dict("records")
        context["offenders"] = [
            draw(row) | {"messages": _said(messages, row["image_path"], row["mask_path"])}
            for row in shown
        ]
        if not len(offending):
            rows = _samples(facts)
            context["samples"] = [draw(row) | {"text": _held(row, classes)} for row in rows]
            ids = sorted({int(label) for row in rows for label in row["label_ids"]})
            context["sample_legend"] = legend(ids, classes)
    write_text(path, render("validation.html", **context))


def _held_splits(facts: pd.DataFrame) -> list[str]:
    return [split for split in ALL_SPLITS if (facts["split"] == split).any()]


def _labels(facts: pd.DataFrame) -> pd.DataFrame:
    """One row for every image and label id: split, label, pixels."""
    known = facts[["split", "label_ids", "label_pixels"]].dropna()
    rows = known.explode(["label_ids", "label_pixels"])
    return rows.rename(columns={"label_ids": "label", "label_pixels": "pixels"}).astype(
        {"label": "int64", "pixels": "int64"}
    )


def _void_share(labels: pd.DataFrame) -> float | None:
    total = int(labels["pixels"].sum())
    return int(labels[labels["label"] == VOID]["pixels"].sum()) / total if total else None


def _size(facts: pd.DataFrame) -> str:
    size = float(facts["image_bytes"].sum() + facts["mask_bytes"].sum())
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def _class_rows(
    labels: pd.DataFrame, classes: Classes, splits: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    counted = labels[labels["label"] != VOID].groupby(["split", "label"])["pixels"]
    images: dict[Any, int] = counted.size().to_dict()
    pixels = counted.sum()
    shares: dict[Any, float] = (pixels / pixels.groupby("split").transform("sum")).to_dict()
    # The background holds most pixels; on its scale no other bar would be seen.
    own = [share for (_, label), share in shares.items() if label != classes.background]
    top = max(own, default=1.0)
    entries = []
    for index, entry in enumerate(legend(range(len(classes.names)), classes)):
        entry["absent"] = not any((split["name"], index) in images for split in splits)
        entry["images"], entry["pixels"] = {}, {}
        for split in splits:
            name = split["name"]
            count, share = images.get((name, index), 0), shares.get((name, index), 0.0)
            entry["images"][name] = {"count": count, "share": count / max(split["images"], 1)}
            entry["pixels"][name] = {"share": share, "bar": share / top}
        entries.append(entry)
    return entries


def _charts(facts: pd.DataFrame, max_void_fraction: float) -> dict[str, Any]:
    known = facts.dropna(subset=["width", "height"])
    sizes = {
        split: Counter(
            known[known["split"] == split][["width", "height"]].itertuples(index=False, name=None)
        )
        for split in _held_splits(facts)
    }
    voids = {
        split: facts[facts["split"] == split]["void_fraction"].dropna().tolist()
        for split in _held_splits(facts)
    }
    both = sum(sizes.values(), Counter())
    common = ", ".join(
        f"{width} × {height} ({count})"
        for (width, height), count in sorted(both.items(), key=lambda one: (-one[1], one[0]))[:3]
    )
    text = "No image could be read."
    if both:
        text = f"{len(both)} different size{'s' if len(both) > 1 else ''}; most common: {common}."
    largest = max((value for values in voids.values() for value in values), default=0.0)
    # Far from the data, the bound would only press them into one corner.
    mark = max_void_fraction if largest > max_void_fraction / 2 else None
    return {
        "sizes_chart": svg.bubbles(sizes),
        "sizes_text": text,
        "void_chart": svg.histogram(voids, "void share of the mask", mark=mark),
    }


def _card(layout: Layout, classes: Classes, row: Mapping[Any, Any]) -> dict[str, Any]:
    """A listed image: its id, its split, and its photograph and mask."""
    return {
        "image_id": row["image_id"],
        "split": row["split"],
        "panels": _panels(layout, classes, row["image_id"]),
    }


def _said(messages: Mapping[str, Sequence[str]], *paths: str) -> list[str]:
    return list(dict.fromkeys(message for path in paths for message in messages.get(path, ())))


def _held(row: Mapping[Any, Any], classes: Classes) -> str:
    held = [label for label in row["label_ids"] if label < len(classes.names)]
    objects = [label for label in held if label != classes.background]
    return ", ".join(classes.names[label] for label in objects or held) or "void"


def _panels(layout: Layout, classes: Classes, image_id: str) -> list[Panel]:
    image: NDArray[np.uint8] | None = None
    try:
        image = read_picture(layout, image_id)
        left = Panel(photograph(image, THUMBNAIL), "image")
    except SegopsError:
        left = Panel(None, _absence(layout.image_path(image_id), "image"))
    try:
        stored = read_mask(layout.mask_path(image_id), layout.reading.photographs)
        # An id of no class is drawn as void.
        mask = np.minimum(layout.reading.mask_ids.labels(stored), VOID).astype(np.uint8)
        fits = image is not None and image.shape[:2] == mask.shape
        if image is not None and fits:
            shown = overlay(image, mask, classes)
        else:
            shown = colours(mask, classes)
        right = Panel(photograph(shown, THUMBNAIL), "mask over the image" if fits else "mask")
    except SegopsError:
        right = Panel(None, _absence(layout.mask_path(image_id), "mask"))
    return [left, right]


def _photograph(layout: Layout, image_id: str) -> Panel:
    try:
        return Panel(photograph(read_picture(layout, image_id), THUMBNAIL), image_id)
    except SegopsError:
        return Panel(None, _absence(layout.image_path(image_id), "image"))


def _absence(path: Path, kind: str) -> str:
    return f"{kind} not readable" if path.exists() else f"no {kind}"


def _samples(facts: pd.DataFrame) -> list[Mapping[Any, Any]]:
    """Rows that show every class early: each next one holds most ids that are still unseen."""
    rows = facts.dropna(subset=["label_ids"]).to_dict("records")
    # Spread over the lists, so that ties do not fall on the first files alone.
    rows = [row for start in range(SAMPLES) for row in rows[start::SAMPLES]]
    chosen: list[Mapping[Any, Any]] = []
    seen: set[int] = set()
    while rows and len(chosen) < SAMPLES:
        best = max(range(len(rows)), key=lambda i: (len(set(rows[i]["label_ids"]) - seen), -i))
        chosen.append(rows.pop(best))
        seen |= {int(label) for label in chosen[-1]["label_ids"]}
    return chosen
