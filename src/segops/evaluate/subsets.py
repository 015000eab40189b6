"""Slices of a split that are sets of images, with the interval of their mIoU.

These are the values of each column of `data.metadata`, and the kinds of scenes of
:mod:`segops.metrics.slices`, whose intervals are added here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from segops.evaluate.bootstrap import interval, miou_from_counts, true_classes
from segops.params.evaluate import EvaluateParams
from segops.report.page_inputs import Place
from segops.voc.metadata import Metadata

MOST_VALUES = 20
"""Values of a column that get a slice each: those with most images. The rest are one slice."""
UNKNOWN = "not known"
"""The slice of the images whose cell is empty, or says this."""


def subsets(metadata: Metadata, images: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Column, value and image ids of each slice: columns in their order, values by their name.

    The slice of the rarer values and that of :data:`UNKNOWN` come last. No two slices of a column
    have the same name.
    """
    found = []
    for place, column in enumerate(metadata.columns):
        value_of = {one: metadata.values[one][place] or UNKNOWN for one in images}
        held = Counter(value for value in value_of.values() if value != UNKNOWN)
        ranked = sorted(held, key=lambda value: (-held[value], value))
        shown, rare = ranked[:MOST_VALUES], ranked[MOST_VALUES:]
        rest = f"{len(rare)} others"
        while rest in held:
            rest = f"({rest})"
        in_rest = dict.fromkeys(rare, rest)
        named = {one: in_rest.get(value, value) for one, value in value_of.items()}
        for name in (*sorted(shown), rest, UNKNOWN):
            if these := tuple(one for one in images if named[one] == name):
                found.append((f"{column} (metadata)", name, these))
    return found


def metadata_slices(
    counts: pd.DataFrame,
    metadata: Metadata,
    images: Sequence[str],
    background: int | None,
    settings: EvaluateParams,
) -> list[dict[str, Any]]:
    """A row for each of :func:`subsets`, as those of :meth:`segops.metrics.slices.Slices.summary`.

    `objects` and `found` are None: they are not counted by image. `miou_low` and `miou_high` are
    the ends of the bootstrap interval over the images, None where fewer than two count.
    `definition` says where the slice comes from.
    """
    rows = []
    for group, name, these in subsets(metadata, images):
        part = counts[counts["image_id"].isin(these)]
        objects = part[part["class_id"] != (-1 if background is None else background)]
        pixels, found = int(objects["truth"].sum()), int(objects["intersection"].sum())
        rows.append(
            {
                "group": group,
                "name": name,
                "definition": "by data.metadata",
                "objects": None,
                "images": len(these),
                "pixels": pixels,
                "recall": found / pixels if pixels else None,
                "found": None,
                **miou_of(counts, these, settings),
            }
        )
    return rows


def with_intervals(
    slices: Sequence[dict[str, Any]],
    counts: pd.DataFrame,
    scenes: Mapping[int, Sequence[str]],
    settings: EvaluateParams,
) -> list[dict[str, Any]]:
    """The slices, those of scenes with their interval; `scenes` are their images by place."""
    return [
        one | (miou_of(counts, scenes[place], settings) if scenes.get(place) else {})
        for place, one in enumerate(slices)
    ]


def miou_of(
    counts: pd.DataFrame, images: Collection[str], settings: EvaluateParams
) -> dict[str, float | None]:
    """`miou` of some images over the classes in their truth, `miou_low` and `miou_high`."""
    part = counts[counts["image_id"].isin(list(images))]
    classes = true_classes(part)
    value = miou_from_counts(part, classes) if classes else math.nan
    ends = (math.nan, math.nan)
    if classes:
        ends = interval(part, settings.bootstrap_samples, settings.confidence, settings.seed)
    keys = ("miou", "miou_low", "miou_high")
    return {
        key: None if math.isnan(one) else float(one)
        for key, one in zip(keys, (value, *ends), strict=True)
    }


def subset_places(
    metadata: Metadata, images: Sequence[str], listed: Sequence[str], first: int
) -> dict[str, Place]:
    """The images of the metadata's slices, in the order of the page's table.

    Args:
        metadata: What is known of the images.
        images: Ids of the images that were scored.
        listed: Ids of the images that the table lists, in its order.
        first: How many slices come before those of the metadata.
    """
    places = {}
    for index, (_, _, these) in enumerate(subsets(metadata, images), first):
        held = frozenset(these)
        rows = [(row, 0) for row, one in enumerate(listed) if one in held]
        places[f"slice-{index}"] = Place(len(these), tuple(rows))
    return places
