"""Classes with their colours and their background; the classes of PASCAL VOC and its palette."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import SegopsError

VOID = 255
"""The id that marks pixels without a label. It is not a class: no loss, no metric counts it."""

VOC_CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Names in id order, as in the VOC2012 development kit (``VOCinit.m``)."""


def palette() -> NDArray[np.uint8]:
    """The VOC colour of every id.

    Returns:
        uint8 array of shape (256, 3), RGB. Id 0 is black, 255 is (224, 224, 192).

    Source:
        ``VOClabelcolormap.m`` of the VOC2012 development kit: bit `j` of an id, taken three at a
        time, becomes bit `7 - j // 3` of red, green and blue.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (ids >> (3 * bit + channel)) & 1
            colours[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    return colours


def hexadecimal(color: Iterable[int]) -> str:
    """A colour, red, green and blue in 0..255, as `#rrggbb`."""
    return f"#{bytes(map(int, color)).hex()}"


@dataclass(frozen=True)
class Classes:
    """The classes of a data set or a model, and how they are drawn.

    Attributes:
        names: The names in id order.
        background: The id of the class that is background; None: none is.
        colors: RGB of the first ids, 0..255; the others have VOC's colours.
    """

    names: tuple[str, ...]
    background: int | None = 0
    colors: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Classes:
        """Those of a bundle's ``model.json``.

        A bundle of an older release says neither: its colours are VOC's, its background is id 0.

        Raises:
            SegopsError: The background is no class, or a colour is none.
        """
        names = tuple(model["class_names"])
        background, colors = model.get("background", names[0]), model.get("colors", ())
        if background is not None and background not in names:
            raise SegopsError(
                f"model.json: background is {background!r}; expected null or one of "
                f"{', '.join(names)}."
            )
        try:
            rgb = [tuple(bytes.fromhex(color.removeprefix("#"))) for color in colors]
        except (AttributeError, TypeError, ValueError) as error:
            raise SegopsError(f"model.json: colors: {error}; expected '#rrggbb' each.") from error
        if len(rgb) > len(names) or any(len(color) != 3 for color in rgb):
            raise SegopsError(f"model.json: colors: expected at most {len(names)}, '#rrggbb' each.")
        return cls(
            names,
            None if background is None else names.index(background),
            tuple((red, green, blue) for red, green, blue in rgb),
        )

    @property
    def background_name(self) -> str | None:
        """The name of the class that is background; None: none is."""
        return None if self.background is None else self.names[self.background]

    def to_model(self) -> dict[str, Any]:
        """The keys of ``model.json`` that :meth:`of_model` reads beside `class_names`."""
        return {
            "background": self.background_name,
            "colors": [hexadecimal(color) for color in self.colors],
        }

    def palette(self) -> NDArray[np.uint8]:
        """The colour of every id, uint8 (256, 3), RGB."""
        table = palette()
        table[: len(self.colors)] = np.reshape(self.colors, (-1, 3))
        return table


VOC = Classes(VOC_CLASSES)
