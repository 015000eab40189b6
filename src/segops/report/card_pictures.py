"""Pictures for a model card, out of the gallery of an evaluation page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from segops import paths
from segops.runtime.errors import SegopsError
from segops.runtime.images import load_image

MOST = 3
GAP = 8
_DATA = re.compile(r'<script type="application/json" id="gallery-data">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows.

    Attributes:
        file: Name of its file.
        text: What it shows, in words.
        content: The file, JPEG.
    """

    file: str
    text: str
    content: bytes


def pictures(page: str, classes: Sequence[str]) -> list[Picture]:
    """Return one picture of each class: photograph, ground truth and prediction side by side.

    Args:
        page: An evaluation page as :func:`segops.report.evaluation_page.write_evaluation_page`
            wrote it; without a gallery there are no pictures.
        classes: The classes to show, the first :data:`MOST` that have a picture. A picture is
            shown once, that with the lowest image score first.

    Raises:
        SegopsError: The gallery is damaged.
    """
    found = _DATA.search(page)
    try:
        entries: list[dict[str, Any]] = json.loads(found[1]) if found else []
        entries.sort(key=lambda entry: (entry["score"] is None, entry["score"]))
        return list(_chosen(entries, classes))
    except (ValueError, LookupError, TypeError, OSError, Image.DecompressionBombError) as error:
        raise SegopsError(
            f"the pictures of {paths.EVALUATION_PAGE} are damaged ({error}). `dvc repro --force "
            "--single-item evaluate` and `segops record` make the page again; or set "
            "registry.card.pictures to false."
        ) from None


def _chosen(entries: list[dict[str, Any]], classes: Sequence[str]) -> Iterator[Picture]:
    number = 0
    for name in classes:
        entry = next((one for one in entries if name in one["classes"]), None)
        if entry is None:
            continue
        entries.remove(entry)
        number += 1
        yield Picture(
            f"worst-{number}.jpg",
            f"{name}, image {entry['id']}: photograph, ground truth, prediction",
            _side_by_side(entry),
        )
        if number == MOST:
            return


def _side_by_side(entry: dict[str, Any]) -> bytes:
    photo = _opened(entry["photo"], "JPEG").convert("RGBA")
    panels = [photo]
    for layer in ("truth", "prediction"):
        mask = _opened(entry[layer], "PNG").convert("RGBA")
        panels.append(Image.blend(photo, Image.alpha_composite(photo, mask), 0.65))
    sheet = Image.new("RGB", (3 * photo.width + 2 * GAP, photo.height), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel.convert("RGB"), (place * (photo.width + GAP), 0))
    stream = BytesIO()
    sheet.save(stream, "JPEG", quality=85, optimize=True)
    return stream.getvalue()


def _opened(text: str, kind: str) -> Image.Image:
    return load_image(base64.b64decode(text), "a picture of the evaluation page", [kind])
