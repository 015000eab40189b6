"""What an importer reads from a data set of another format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.runtime.errors import SegopsError
from segops.runtime.images import MAX_PIXELS

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
        colors: For each label the colour by which its file shows it, such as `#00ff80`; empty
            where it has none.
    """

    labels: tuple[str, ...]
    indices: NDArray[np.int32]
    colors: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceImage:
    """An image of a source.

    Attributes:
        image_id: Its id in VOC layout.
        photograph: Its file.
        origin: The files that its labels come from.
        draw: Given width and height in pixels, returns the labels. It raises any exception when
            they cannot be read; see :func:`explained`.
        split: `train`, `val` or `test` where the source says so, else None.
        size: Width and height in pixels where the annotation states them, else None.
    """

    image_id: str
    photograph: Path
    origin: tuple[Path, ...]
    draw: Callable[[tuple[int, int]], Drawn]
    split: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """A data set of another format.

    Attributes:
        images: Its images.
        labels: All labels that it declares, in the order of their ids; the first is class 0.
        problems: What is wrong with it, a line each.
        notes: What is left out of it, a sentence each.
    """

    images: tuple[SourceImage, ...]
    labels: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())


def most_pixels(size: tuple[int, int]) -> int:
    """Most pixels of a mask whose photograph, of width and height `size`, is within its own limit.

    That of the photograph is `data.max_pixels`, so no other parameter is needed for the mask.
    """
    return max(MAX_PIXELS, size[0] * size[1])


def explained(error: Exception, where: Path | str) -> str:
    """Return a line on an exception; `where` says where it was met, if it does not say so itself.

    Annotations of other tools hold anything, and libraries raise anything on it.
    """
    if isinstance(error, SegopsError):
        return str(error)
    said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return f"{where}: cannot be read: {said}"


@contextmanager
def noted(problems: list[str], where: Path | str) -> Iterator[None]:
    """Append a line to `problems` for an exception within; see :func:`explained`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        problems.append(explained(error, where))
