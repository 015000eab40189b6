"""The table of a prediction: size, confidence and class shares of every image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segops import files
from segops.cells import FORMULA, cell

from .journal import FinishedImage

TABLE = "predictions.csv"
_FIRST = ("image", "width", "height", "confidence")
_LAST = ("error",)
_FRAME = ("frame", "seconds", "confidence")


def columns(
    class_names: Sequence[str],
    first: tuple[str, ...] = _FIRST,
    last: tuple[str, ...] = _LAST,
) -> list[str]:
    """The table's columns: those of the classes between the `first` and the `last`.

    `class` is put before the name of a class that equals another column's name or that a
    spreadsheet would take for a formula.
    """
    fixed = {*first, *last}
    classes = [
        f"class {name}" if name in fixed or name.startswith(FORMULA) else name
        for name in class_names
    ]
    return [*first, *classes, *last]


def write_table(
    path: Path, class_names: Sequence[str], rows: Iterable[tuple[str, FinishedImage | str]]
) -> None:
    """Write the table, whole or not at all.

    Each image has one row: its name, its width and height as seen, the confidence (mean probability
    of the top class), the share of the image (0..1) predicted as each class, and the error of an
    image without a prediction. Confidence and shares have six significant digits; the journal keeps
    all. A name that a spreadsheet would take for a formula is written ``./NAME``,
    which is the same path; such an error is written after `error:`.
    """
    empty = [""] * (len(_FIRST) - 1 + len(class_names))
    with (
        files.atomic_path(path) as temporary,
        # A file's name need not be UTF-8; the table is.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(cell, columns(class_names)))
        for name, entry in rows:
            image = cell(name, "./")
            if isinstance(entry, str):
                writer.writerow([image, *empty, cell(entry, "error: ")])
                continue
            total = entry.width * entry.height
            shares = (pixels / total for pixels in entry.pixels)
            figures = [f"{value:.6g}" for value in (entry.confidence, *shares)]
            writer.writerow([image, entry.width, entry.height, *figures, ""])


@dataclass(frozen=True)
class Frame:
    """A row of :func:`write_frames`.

    Attributes:
        seconds: Time of the frame in the video.
        confidence: Mean over the pixels of the top class's probability.
        shares: The share of the frame, 0..1, that is predicted as each class.
    """

    seconds: float
    confidence: float
    shares: Sequence[float]


def write_frames(path: Path, class_names: Sequence[str], frames: Iterable[Frame]) -> None:
    """Write the table of a video, with a row for each frame, to a path that is not yet in use.

    Figures have six significant digits, times three behind the point.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(cell, columns(class_names, _FRAME, ())))
        for number, frame in enumerate(frames):
            figures = [f"{value:.6g}" for value in (frame.confidence, *frame.shares)]
            writer.writerow([number, f"{frame.seconds:.3f}", *figures])
