"""The page of the images to annotate next, with the model's masks as a first draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.files import write_text
from segops.report.gallery import picture_budget, shrunk
from segops.report.html import photograph, render
from segops.report.overlay import legend, overlay, present
from segops.runtime.classes import Classes

MOST_SHOWN = 200
"""Images on the page; the table has all of them."""
SIDE = 320
"""Pixels of a picture's longer side."""


@dataclass(frozen=True)
class NextCard:
    """An image on the page.

    Attributes:
        rank: Its place, from 1.
        name: Its path below the directory of images.
        uncertainty: Mean entropy of the class probabilities, 0..1.
        distance: Distance of its features from the nearest labelled or chosen image, 0..2.
        panels: Pictures as data URIs, by what they show; empty: without pictures.
        ids: The class ids of the draft.
    """

    rank: int
    name: str
    uncertainty: float
    distance: float
    panels: dict[str, str]
    ids: tuple[int, ...]


def next_card(
    rank: int,
    name: str,
    uncertainty: float,
    distance: float,
    picture: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None,
    classes: Classes,
) -> NextCard:
    """An image on the page; see :class:`NextCard`.

    `picture` is the image, uint8 (H, W, 3), RGB, and the draft of its mask, uint8 (H, W), class
    ids; None: the page shows neither.
    """
    panels: dict[str, str] = {}
    ids: tuple[int, ...] = ()
    if picture is not None:
        size = shrunk(picture[1].shape, SIDE)
        image = cv2.resize(picture[0], size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        mask = cv2.resize(picture[1], size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        shown = {"photograph": image, "draft": overlay(image, mask, classes)}
        panels = {text: photograph(pixels, SIDE) for text, pixels in shown.items()}
        ids = tuple(present([mask]))
    return NextCard(rank, name, uncertainty, distance, panels, ids)


def write_next_page(
    path: Path,
    cards: Sequence[NextCard],
    classes: Classes,
    *,
    chosen: int,
    total: int,
    known: int,
    repeated: int,
    model: str,
) -> None:
    """Write the page.

    The page stays under :data:`segops.report.gallery.PAGE_LIMIT` bytes: the last images are shown
    without pictures where these do not fit, and the page says so.

    Args:
        path: The HTML file.
        cards: The first images to annotate, in their order.
        classes: The model's classes.
        chosen: How many images were chosen.
        total: Images of the directory.
        known: How many of them are in the data set.
        repeated: How many repeat another of them.
        model: What the model is called.
    """
    bare = [replace(card, panels={}) for card in cards]
    context = {
        "chosen": chosen,
        "total": total,
        "known": known,
        "repeated": repeated,
        "model": model,
    }
    left = picture_budget(render("next.html", cards=bare, colours=[], unseen=0, **context))
    shown: list[NextCard] = []
    for card, without in zip(cards, bare, strict=True):
        left -= sum(len(source) for source in card.panels.values())
        shown.append(card if left >= 0 else without)
    seen = [card for card in shown if card.panels]
    ids = sorted({index for card in seen for index in card.ids})
    unseen = sum(bool(card.panels) for card in cards) - len(seen)
    colours = legend(ids, classes)
    write_text(path, render("next.html", cards=shown, colours=colours, unseen=unseen, **context))
