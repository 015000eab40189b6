"""The page of a label audit: the images whose labels are likely wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.quality.label_scores import Contradiction, Segment
from segops.report.gallery import shrunk
from segops.report.html import photograph, render
from segops.report.overlay import legend, overlay, present
from segops.runtime.classes import Classes

SIDE = 360
"""Pixels of a picture's longer side."""
SEGMENTS = 4
"""Most segments that are named below a picture."""
INNER, OUTER = (255, 255, 255), (190, 0, 150)
"""RGB of the two lines around a segment."""


@dataclass(frozen=True)
class LabelRow:
    """A judged image.

    Attributes:
        image_id: Its id.
        split: Its split.
        score: Its label quality score, 0..1, low where a label is likely wrong; None where no pixel
            is labelled.
        segments: What contradicts, the surest first.
    """

    image_id: str
    split: str
    score: float | None
    segments: Sequence[Segment]


@dataclass(frozen=True)
class LabelPicture:
    """What is shown of an image.

    Attributes:
        image_id: Its id.
        image: uint8 (H, W, 3), RGB.
        given: uint8 (H, W), class ids and 255 for void.
        predicted: uint8 (H, W), class ids.
        segments: What contradicts, the surest first.
    """

    image_id: str
    image: NDArray[np.uint8]
    given: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    segments: Sequence[Contradiction]


def write_labels_page(
    path: Path,
    rows: Sequence[LabelRow],
    pictures: Iterable[LabelPicture],
    classes: Classes,
    *,
    suspects: int,
    left_out: int,
    by: str,
) -> None:
    """Write the page; a picture at a time is in memory.

    Args:
        path: The HTML file.
        rows: The judged images, the most suspect first.
        pictures: Those of the first `suspects` of them, in their order; empty: without pictures.
        classes: The classes with their colours and background.
        suspects: How many of the rows are shown.
        left_out: How many images were not judged, because the model had seen them.
        by: What judged, as a sentence goes on after "Judged by".
    """
    ids: set[int] = set()
    panels: dict[str, list[dict[str, str]]] = {}
    for one in pictures:
        ids.update(present((one.given, one.predicted)))
        panels[one.image_id] = _panels(one, classes)
    context: dict[str, Any] = {
        "images": len(rows),
        "segments": sum(len(row.segments) for row in rows),
        "contradicted": sum(bool(row.segments) for row in rows),
        "left_out": left_out,
        "by": by,
        "items": [
            {
                "rank": rank,
                "image_id": row.image_id,
                "split": row.split,
                "score": row.score,
                "panels": panels.get(row.image_id, []),
                "segments": [_words(one, classes.names) for one in row.segments[:SEGMENTS]],
                "more": max(0, len(row.segments) - SEGMENTS),
            }
            for rank, row in enumerate(rows[:suspects], 1)
        ],
        "colours": legend(sorted(ids), classes),
    }
    write_text(path, render("labels.html", **context))


def _words(one: Segment, names: Sequence[str]) -> dict[str, Any]:
    left, top, right, bottom = one.box
    return {
        "given": names[one.given],
        "predicted": names[one.predicted],
        "score": one.score,
        "pixels": one.pixels,
        "place": f"x {left} to {right}, y {top} to {bottom}",
    }


def _panels(one: LabelPicture, classes: Classes) -> list[dict[str, str]]:
    size = shrunk(one.given.shape, SIDE)
    image = cv2.resize(one.image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    given, predicted = (
        cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        for mask in (one.given, one.predicted)
    )
    shown = (
        ("photograph", image),
        ("given", overlay(image, given, classes)),
        ("predicted", overlay(image, predicted, classes)),
    )
    scale = size[0] / one.given.shape[1]
    return [
        {"text": text, "source": photograph(_outlined(picture, one.segments, scale), SIDE)}
        for text, picture in shown
    ]


def _outlined(
    picture: NDArray[np.uint8], segments: Sequence[Contradiction], scale: float
) -> NDArray[np.uint8]:
    """The picture with two lines around each segment that is named; `scale` is the picture's."""
    drawn = picture.copy()
    for segment, pixels in segments[:SEGMENTS]:
        found, _ = cv2.findContours(
            pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        corner = np.array(segment.box[:2])
        lines = [((line + corner + 0.5) * scale).astype(np.int32) for line in found]
        cv2.drawContours(drawn, lines, -1, OUTER, 3, cv2.LINE_AA)
        cv2.drawContours(drawn, lines, -1, INNER, 1, cv2.LINE_AA)
    return drawn
