"""The pictures of the evaluation page, within a budget of bytes.

Photographs are JPEG, what lies over them is palette PNG.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageColor

from segops.params.colors import VOID_DARK, VOID_LIGHT
from segops.report.overlay import (
    ERROR_KINDS,
    heat_colours,
    legend,
    outline,
    outline_colours,
    present,
    void_stripes,
)
from segops.report.page_inputs import GalleryPicture
from segops.runtime.classes import VOC, VOID, Classes
from segops.threads import pipelined

SIDE = 400
HEAT_SIDE = 128
HEAT_LEVELS = 32
QUALITY = 80
VOID_ALPHA = 215
PAGE_LIMIT = 15_000_000
"""Most bytes of a page."""
GALLERY_FRAME = 100_000
"""Bytes of the page's limit that the legend and the words around the pictures get."""
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
        others: How many opponents' predictions the pictures have.
    """

    total: int
    shown: int
    data: Markup
    colours: list[dict[str, Any]]
    explained: bool
    others: int = 0


def picture_budget(bare: str) -> int:
    """Bytes that the pictures of a page may take; `bare` is the page without them."""
    return PAGE_LIMIT - len(bare.encode()) - GALLERY_FRAME


def gallery(pictures: Iterable[GalleryPicture], classes: Classes, budget: int) -> Gallery:
    """Encode pictures in their order for as long as `data` fits the budget of bytes.

    A handful of pictures at a time is in memory.
    """
    texts: list[str] = []
    ids: set[int] = set()
    total, left, explained, others = 0, budget - 2, False, 0

    def draw(one: GalleryPicture) -> tuple[str, GalleryPicture] | None:
        if left < 0:  # after the first picture that does not fit, the rest are only counted
            return None
        return str(htmlsafe_json_dumps(_entry(one, classes))), one

    for drawn in pipelined(pictures, draw, THREADS, 2 * THREADS):
        total += 1
        if drawn is None or left < 0:
            continue
        text, picture = drawn
        left -= len(text) + 2
        if left >= 0:
            texts.append(text)
            ids.update(present((picture.truth, picture.prediction, *picture.others)))
            explained |= picture.activation is not None
            others = max(others, len(picture.others))
    return Gallery(
        total=total,
        shown=len(texts),
        data=Markup("[" + ",\n".join(texts) + "]"),
        colours=legend(sorted(ids), classes),
        explained=explained,
        others=others,
    )


def _entry(one: GalleryPicture, classes: Classes) -> dict[str, Any]:
    height, width = one.truth.shape
    here = present((one.truth, one.prediction))
    entry: dict[str, Any] = {
        "id": one.image_id,
        "score": _rounded(one.score),
        "confidence": _rounded(one.confidence),
        "width": width,
        "height": height,
        "pixels": int(np.count_nonzero(one.truth != VOID)),
        "errors": one.errors,
        "classes": [classes.names[index] for index in here if index < len(classes.names)],
        "photo": photo(one.image),
        "truth": mask_layer(one.truth, classes),
        "prediction": mask_layer(one.prediction, classes),
        "kinds": kind_layer(one.kinds),
        **{f"other{place}": mask_layer(mask, classes) for place, mask in enumerate(one.others)},
    }
    if one.activation is not None:
        entry |= {"activation": heat_layer(one.activation), "explained": one.explained}
    return entry


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def photo(image: NDArray[np.uint8]) -> str:
    """An RGB photograph, uint8 (H, W, 3), as JPEG in base 64 that fits :data:`SIDE`."""
    small = cv2.resize(image, shrunk(image.shape[:2]), interpolation=cv2.INTER_AREA)
    stream = BytesIO()
    Image.fromarray(small).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def mask_layer(mask: NDArray[np.uint8], classes: Classes = VOC) -> str:
    """A mask in the classes' colours with light outlines; background lets the photograph through.

    uint8 (H, W), class ids and 255 for void. The result is a palette PNG in base 64, scaled down by
    nearest neighbour to fit :data:`SIDE`.
    """
    small = _nearest(mask, SIDE)
    ids = np.array(present([small]))
    place = np.zeros(256, dtype=np.uint8)
    place[ids] = np.arange(len(ids))
    indices = place[small]
    colours = [
        (*one, 0 if index == classes.background else 255)
        for index, one in zip(ids.tolist(), classes.palette()[ids].tolist(), strict=True)
    ]
    if VOID in ids:
        colours[-1] = (*VOID_LIGHT, VOID_ALPHA)
        if len(colours) < 256:
            indices[void_stripes(small)] = len(colours)
            colours.append((*VOID_DARK, VOID_ALPHA))
    if len(colours) + len(ids) <= 256:
        edge = outline(small, classes.background)
        indices[edge] = place[small[edge]] + len(colours)
        colours += [(*one, 255) for one in outline_colours(classes)[ids].tolist()]
    return _palette_png(indices, colours)


def kind_layer(kinds: NDArray[np.uint8]) -> str:
    """Where what kind of error is; what is right or void lets the photograph through.

    uint8 (H, W), 0 where right or void, else 1 + index in :data:`ERROR_KINDS`. The result is as
    that of :func:`mask_layer`.
    """
    colours = [(0, 0, 0, 0), *((*ImageColor.getrgb(one.colour), 255) for one in ERROR_KINDS)]
    return _palette_png(_nearest(kinds, SIDE), colours)


def heat_layer(activation: NDArray[np.uint8]) -> str:
    """Where the network looked, uint8 (H, W): strong is bright and opaque, nothing is transparent.

    The result is a palette PNG in base 64 that fits :data:`HEAT_SIDE`: it is smooth, so the browser
    may enlarge it.
    """
    size = shrunk(activation.shape, HEAT_SIDE)
    small = Image.fromarray(activation).resize(size, Image.Resampling.BILINEAR)
    levels = np.asarray(small).astype(np.uint16) * HEAT_LEVELS // 256
    share = np.linspace(0, 1, HEAT_LEVELS)
    alpha = 255 * np.minimum(share * 1.6, 1)
    colours = np.column_stack([heat_colours(share), alpha]).round().astype(int).tolist()
    return _palette_png(levels.astype(np.uint8), [tuple(one) for one in colours])


def shrunk(shape: tuple[int, ...], side: int = SIDE) -> tuple[int, int]:
    """Width and height that fit a square of `side` pixels; a smaller image keeps its own."""
    height, width = shape
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _nearest(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(mask)
    return np.array(picture.resize(shrunk(mask.shape, side), Image.Resampling.NEAREST))


def _palette_png(indices: NDArray[np.uint8], colours: Sequence[tuple[int, ...]]) -> str:
    picture = Image.fromarray(indices).convert("L")
    picture.putpalette([value for colour in colours for value in colour[:3]])
    stream = BytesIO()
    alpha = bytes(colour[3] for colour in colours)
    picture.save(stream, "PNG", transparency=alpha)
    return base64.b64encode(stream.getvalue()).decode()
