"""The pictures of the evaluation page, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from segops.report.layers import heat_layer, kind_layer, mask_layer, photo
from segops.report.overlay import legend, present
from segops.report.page_inputs import GalleryPicture
from segops.runtime.classes import VOID
from segops.threads import pipelined

THREADS = 4
"""Threads that draw: most of the time goes into packing pictures, which does without Python's
lock."""


@dataclass(frozen=True)
class Gallery:
    """Pictures as the page's script reads them.

    Attributes:
        total: How many pictures there were.
        shown: How many of them are on the page: the first ones.
        data: JSON, an array with one object a picture; safe inside a script element.
        colours: Entries of the legend for the ids in the masks shown.
        explained: Whether any picture has an activation map.
    """

    total: int
    shown: int
    data: Markup
    colours: list[dict[str, Any]]
    explained: bool


def gallery(pictures: Iterable[GalleryPicture], class_names: Sequence[str], budget: int) -> Gallery:
    """Encode pictures in their order for as long as `data` fits the budget of bytes.

    A handful of pictures at a time is in memory.
    """
    texts: list[str] = []
    ids: set[int] = set()
    total, left, explained = 0, budget - 2, False

    def draw(one: GalleryPicture) -> tuple[str, list[int], bool] | None:
        if left < 0:  # after the first picture that does not fit, the rest are only counted
            return None
        here = present((one.truth, one.prediction))
        entry = _entry(one, [class_names[index] for index in here if index < len(class_names)])
        return str(htmlsafe_json_dumps(entry)), here, one.activation is not None

    for drawn in pipelined(pictures, draw, THREADS, 2 * THREADS):
        total += 1
        if drawn is None or left < 0:
            continue
        text, here, has_activation = drawn
        left -= len(text) + 2
        if left >= 0:
            texts.append(text)
            ids.update(here)
            explained |= has_activation
    return Gallery(
        total=total,
        shown=len(texts),
        data=Markup("[" + ",\n".join(texts) + "]"),
        colours=legend(sorted(ids), class_names),
        explained=explained,
    )


def _entry(one: GalleryPicture, classes: Sequence[str]) -> dict[str, Any]:
    height, width = one.truth.shape
    entry: dict[str, Any] = {
        "id": one.image_id,
        "score": _rounded(one.score),
        "confidence": _rounded(one.confidence),
        "width": width,
        "height": height,
        "pixels": int(np.count_nonzero(one.truth != VOID)),
        "errors": one.errors,
        "classes": classes,
        "photo": photo(one.image),
        "truth": mask_layer(one.truth),
        "prediction": mask_layer(one.prediction),
        "kinds": kind_layer(one.kinds),
    }
    if one.activation is not None:
        entry |= {"activation": heat_layer(one.activation), "explained": one.explained}
    return entry


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
