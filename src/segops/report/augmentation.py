"""The contact sheet of the augmentation policy: what the network is really shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segops.files import atomic_path
from segops.report.overlay import colours, overlay
from segops.runtime.classes import VOC, VOID, Classes

PANEL = 220
GAP = 12
MARGIN = 24
HEAD = 76
TITLE = 26
FOOT = 40
GROUND, SUNKEN, INK, MUTED = (255, 255, 255), (238, 240, 243), (22, 26, 32), (89, 98, 111)


@dataclass(frozen=True)
class ContactRow:
    """One image and what the policy makes of it.

    Attributes:
        title: Names the image.
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class ids and 255 for void.
        versions: Augmented pairs, image uint8 (h, w, 3) and mask uint8 (h, w).
    """

    title: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    versions: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def write_contact_sheet(path: Path, rows: Sequence[ContactRow], classes: Classes = VOC) -> None:
    """Draw a row for every image: the image, its mask, and its augmented versions with masks.

    Raises:
        ValueError: There are no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    titles = ["image", "mask"]
    titles += [f"augmented {index + 1}" for index in range(max(len(row.versions) for row in rows))]
    step = PANEL + GAP
    size = (
        2 * MARGIN + len(titles) * step - GAP,
        HEAD + len(rows) * (TITLE + step) + FOOT,
    )
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * step, HEAD - 26), title, MUTED, _font(16))
    draw.text((MARGIN, 14), "Augmentation: what training sees", INK, _font(22))
    for index, row in enumerate(rows):
        top = HEAD + index * (TITLE + step)
        draw.text((MARGIN, top + 2), row.title, INK, _font(15))
        panels = [row.image, colours(row.mask, classes)]
        panels += [overlay(image, mask, classes) for image, mask in row.versions]
        for column, panel in enumerate(panels):
            _paste(sheet, panel, MARGIN + column * step, top + TITLE)
    top = size[1] - FOOT + 6
    sheet.paste(Image.fromarray(colours(np.full((20, 32), VOID, dtype=np.uint8))), (MARGIN, top))
    words = f"void ({VOID}): borders, and padding that the policy adds; it counts in no loss"
    draw.text((MARGIN + 42, top - 1), words, MUTED, _font(15))
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def _paste(sheet: Image.Image, panel: NDArray[np.uint8], left: int, top: int) -> None:
    """Fit a panel into its square; what remains of the square is sunken."""
    picture = Image.fromarray(panel)
    scale = PANEL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    sheet.paste(SUNKEN, (left, top, left + PANEL, top + PANEL))
    sheet.paste(
        picture.resize((width, height), Image.Resampling.LANCZOS),
        (left + (PANEL - width) // 2, top + (PANEL - height) // 2),
    )


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow carries this font with it, so the sheet is the same on every machine.
    return ImageFont.load_default(size)
