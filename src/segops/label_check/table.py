"""The table of a label audit: the judged images and the segments that contradict."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from segops import files
from segops.cells import cell
from segops.report.labels_page import LabelRow

COLUMNS = (
    "image", "split", "rank", "score", "segment_score", "given", "predicted",
    "left", "top", "right", "bottom", "pixels",
)  # fmt: skip


def write_labels_table(path: Path, rows: Iterable[LabelRow], class_names: Sequence[str]) -> None:
    """Write the table, whole or not at all.

    Each segment has a row, and so has an image without one. `rank` and `score` are those of the
    image, whose ranks count from 1. Scores have six significant digits. A name that a spreadsheet
    would take for a formula is written as :mod:`segops.cells` writes it.
    """
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, row in enumerate(rows, 1):
            score = "" if row.score is None else f"{row.score:.6g}"
            image = [cell(row.image_id, "./"), row.split, rank, score]
            for one in row.segments:
                names = (cell(class_names[index], "class ") for index in (one.given, one.predicted))
                writer.writerow([*image, f"{one.score:.6g}", *names, *one.box, one.pixels])
            if not row.segments:
                writer.writerow([*image, *[""] * (len(COLUMNS) - len(image))])
