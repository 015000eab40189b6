"""What a request may ask for, and what an answer says of classes; no image library is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segops.runtime.classes import hexadecimal

PNG, JPEG, NPY = "image/png", "image/jpeg", "application/x-npy"


@dataclass(frozen=True)
class Wanted:
    """What a request asks for of each of its images.

    Attributes:
        form: Media type of the answer.
        mask: JSON holds the mask.
        confidence_map: JSON holds the probability of every pixel's class.
        polygons: JSON holds the outlines of the regions.
        explain: JSON holds the activation map of this class.
    """

    form: str = PNG
    mask: bool = False
    confidence_map: bool = False
    polygons: bool = False
    explain: str | None = None


def legend(classes: Any) -> list[dict[str, Any]]:
    """Return id, name and colour (`#rrggbb`) of every class, in id order."""
    colors = classes.palette()
    return [
        {"id": number, "name": name, "color": hexadecimal(colors[number])}
        for number, name in enumerate(classes.names)
    ]
