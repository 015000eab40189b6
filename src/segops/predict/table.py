"""The table of a prediction: what every image shows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from segops import files
from segops.predict.journal import Entry

TABLE = "predictions.csv"
_FIRST = ("image", "width", "height", "confidence")
_LAST = ("error",)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, which it would run; the last four are
the first four as wide characters."""


def columns(class_names: Sequence[str]) -> list[str]:
    """The table's columns.

    A class gets `class` before its name where that is one of the other columns' or would be taken
    for a formula.
    """
    fixed = {*_FIRST, *_LAST}
    classes = [
        f"class {name}" if name in fixed or name.startswith(_FORMULA) else name
        for name in class_names
    ]
    return [*_FIRST, *classes, *_LAST]


def write_table(
    path: Path, class_names: Sequence[str], rows: Iterable[tuple[str, Entry | str]]
) -> None:
    """Write the table, whole or not at all.

    One row an image: its name, width and height as seen, the confidence (mean probability of the
    top class), the share of the image (0..1) that each class was predicted on, and the error that
    kept it from being predicted. Confidence and shares have six significant digits; the journal
    keeps all. No text is one that a spreadsheet takes for a formula: such an image is named
    ``./NAME``, which is the same path, and such an error has `error:` before it.

    Args:
        path: The CSV file, in UTF-8.
        class_names: The names in id order.
        rows: Every image's name with its entry, or with what is wrong with it.
    """
    empty = [""] * (len(_FIRST) - 1 + len(class_names))
    with (
        files.atomic_path(path) as temporary,
        # A file's name need not be UTF-8; the table is.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(_cell, columns(class_names)))
        for name, found in rows:
            image = f"./{name}" if name.startswith(_FORMULA) else name
            if isinstance(found, str):
                error = f"error: {found}" if found.startswith(_FORMULA) else found
                writer.writerow([_cell(image), *empty, _cell(error)])
                continue
            total = found.width * found.height
            shares = (pixels / total for pixels in found.pixels)
            figures = [f"{value:.6g}" for value in (found.confidence, *shares)]
            writer.writerow([_cell(image), found.width, found.height, *figures, ""])


def _cell(text: str) -> str:
    """A text for the table: its writer leaves a carriage return bare, which ends a row."""
    return text.replace("\r", "\\r")
