"""In which images each figure of the evaluation page lies, so that a click on it can show them.

A figure has a key of letters, digits and hyphens, which is safe in an address and in HTML:
`cell-T-P` is a cell of the confusion matrix (ids of the true and the predicted class), `iou-C` the
wrong pixels of a class, true or predicted, `kind-K` a kind of error (index in
:data:`segops.metrics.wrong_pixels.KINDS`),
`union-C-K` a part of a class's union (index in :data:`segops.metrics.counts.UNION_ERRORS`),
`slice-I` a slice (its place in the evaluation), `bin-I` the wrong pixels of a bin of confidence,
`suspected` the images whose labels an audit suspects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.metrics.counts import UNION_ERRORS
from segops.metrics.iou import class_pixels
from segops.metrics.slices import slice_pixels
from segops.metrics.split_figures import ImageFigures
from segops.metrics.wrong_pixels import KINDS
from segops.report.page_inputs import LabelErrors, Place

FIGURES = ("cell", "union", "slice", "bin", "iou", "kind")
COLUMNS = ("image", "figure", "row", "column", "pixels")
"""Columns of the table of places: place of the image among those that were scored, index in
:data:`FIGURES`, the one or two numbers of the figure's key (`column` is 0 where it has one), and
how many pixels of the figure the image holds."""
SUSPECTED = "suspected"
MOST = 100
"""Most images that the page lists for a figure."""


def places_of(image: int, figures: ImageFigures) -> NDArray[np.int32]:
    """The rows of the table of places of one image, int32 (n, 5)."""
    errors, confusion = figures.union_errors, figures.confusion
    right, predicted, truth = class_pixels(confusion)
    kinds = dict.fromkeys(KINDS, 0)
    for _, kind, pixels in figures.errors:
        kinds[kind] += pixels
    tables: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {
        "cell": confusion,
        "union": np.stack([getattr(errors, kind) for kind in UNION_ERRORS], axis=1),
        "slice": slice_pixels(figures.objects, confusion)[:, None],
        "iou": (truth + predicted - 2 * right)[:, None],
        "kind": np.array(list(kinds.values()))[:, None],
    }
    if (bins := figures.calibration) is not None:
        tables["bin"] = (bins.pixels - bins.right)[:, None]
    parts = []
    for name, table in tables.items():
        at = np.nonzero(table)
        fixed = np.full((2, len(at[0])), [[image], [FIGURES.index(name)]])
        parts.append(np.stack([*fixed, *at, table[at]], axis=1).astype(np.int32))
    return np.concatenate(parts)


def table_of(rows: Sequence[NDArray[np.int32]]) -> pd.DataFrame:
    """The table of places of all images, from what :func:`places_of` gave for each."""
    none = np.zeros((0, len(COLUMNS)), np.int32)
    return pd.DataFrame(np.concatenate([none, *rows]), columns=list(COLUMNS))


def find_places(
    table: pd.DataFrame, scored: Sequence[str], listed: Sequence[str]
) -> dict[str, Place]:
    """The images of each figure.

    Args:
        table: A table of places.
        scored: Ids of the images that were scored, in their order.
        listed: Ids of the images that the page's table lists, in its order.

    Returns:
        By key, the figures that occur; of each the listed images with most of its pixels, at most
        :data:`MOST`.
    """
    at = {image_id: row for row, image_id in enumerate(listed)}
    rows = pd.Series([at.get(image_id, -1) for image_id in scored], dtype=np.int64)
    table = table.assign(listed=rows.to_numpy()[table["image"].to_numpy()])
    table = table.sort_values(["pixels", "listed"], ascending=[False, True])
    found = {}
    for numbers, group in table.groupby(["figure", "row", "column"]):
        figure, row, column = cast("tuple[int, int, int]", numbers)
        name = FIGURES[figure]
        key = f"{name}-{row}-{column}" if name in ("cell", "union") else f"{name}-{row}"
        shown = group[group["listed"] >= 0].head(MOST)
        pairs = zip(shown["listed"].tolist(), shown["pixels"].tolist(), strict=True)
        found[key] = Place(len(group), tuple(pairs))
    return found


def slice_images(table: pd.DataFrame, scored: Sequence[str]) -> dict[int, list[str]]:
    """Ids of the images that have a part in each slice, by its place in the evaluation."""
    rows = table[table["figure"] == FIGURES.index("slice")]
    return {
        cast("int", place): [scored[image] for image in group["image"].tolist()]
        for place, group in rows.groupby("row")
    }


def suspected_place(labels: LabelErrors, listed: Sequence[str]) -> Place:
    """The images whose labels an audit suspects, those with most of its pixels first."""
    rows = [
        (row, labels.pixels[one] or 0) for row, one in enumerate(listed) if one in labels.pixels
    ]
    return Place(len(labels.pixels), tuple(sorted(rows, key=lambda one: (-one[1], one[0]))))
