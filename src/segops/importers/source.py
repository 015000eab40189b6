"""What an importer reads from a data set of another format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops.runtime.errors import SegopsError
from segops.runtime.images import DATA_KEY, MAX_PIXELS, load_image, stored_size

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


def load_labels(
    content: bytes, name: str, formats: Sequence[str], size: tuple[int, int], *, part: bool = False
) -> Image.Image:
    """Decode an image of labels; its header must say the size of its photograph.

    Args:
        content: The file's bytes.
        name: Name of the file in error messages.
        formats: As of :func:`segops.runtime.images.load_image`.
        size: Width and height of the photograph; zeros: not known.
        part: Whether the image may be smaller, because it is of one object.

    Raises:
        SegopsError: The image has another size, which is found before a pixel is decoded; or as
            :func:`segops.runtime.images.load_image`.
    """
    own = size
    with suppress(Exception):  # of damaged bytes, which are told of below
        own = stored_size(BytesIO(content))
    fits = own[0] <= size[0] and own[1] <= size[1] if part else own == size
    if any(size) and not fits:
        raise SegopsError(
            f"{name}: {own[0]} x {own[1]} pixels, its photograph {size[0]} x {size[1]}."
        )
    return load_image(content, name, formats, max(MAX_PIXELS, size[0] * size[1]), DATA_KEY)


def indexed(values: NDArray[np.integer]) -> tuple[list[int], NDArray[np.int32]]:
    """Return the distinct values of an array, sorted, and for each element the index of its own."""
    flat = values.ravel()
    # Most pixels have the value of the pixel before, and sorting all of them takes long.
    met = np.unique(flat[np.diff(flat, prepend=flat[:1] ^ 1) != 0])
    return met.tolist(), np.searchsorted(met, values).astype(np.int32)


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
