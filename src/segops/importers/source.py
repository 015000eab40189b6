"""What an importer reads from a data set of another format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BACKGROUND = "background"
VOID_NAME = "void"
"""Name of pixels that are no class, in the labels of a source and in mappings."""


@dataclass(frozen=True)
class Drawn:
    """The labels of an image's pixels.

    Attributes:
        labels: Labels as the source writes them: a name, a value such as `255`, or a colour such
            as `#00ff80`.
        indices: int32 array of shape (H, W): for each pixel the index of its label.
    """

    labels: tuple[str, ...]
    indices: NDArray[np.int32]


@dataclass(frozen=True)
class SourceImage:
    """An image of a source.

    Attributes:
        image_id: Its id in VOC layout.
        photograph: Its file.
        origin: The files that its labels come from.
        draw: Given width and height in pixels, returns the labels. It raises a SegopsError that
            names the file when the labels cannot be read.
        split: `train`, `val` or `test` where the source says so, else None.
    """

    image_id: str
    photograph: Path
    origin: tuple[Path, ...]
    draw: Callable[[tuple[int, int]], Drawn]
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set of another format.

    Attributes:
        images: Its images.
        labels: All labels that it declares, in the order of their ids; the first is class 0.
        problems: What is wrong with it, a line each.
    """

    images: tuple[SourceImage, ...]
    labels: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
