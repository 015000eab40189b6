"""Metadata of images: a CSV of one row an image, such as its camera, its site and its date.

The first column is `image_id`; every further one divides the images of a split into subsets by its
values. A cell may be empty: the value is not known.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from segops.files import sha256_lines, write_text
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_file
from segops.voc.layout import Layout

ID = "image_id"
LONGEST = 100
"""Most characters of a name or value: they are shown on pages."""


@dataclass(frozen=True)
class Metadata:
    """What is known of images.

    Attributes:
        columns: Names of what is known, in the order of the file.
        values: By image id one value a column; empty: not known.
    """

    columns: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of what is known, in hexadecimal; the order of the images does not matter."""
        rows = ["\t".join((one, *self.values[one])) for one in sorted(self.values)]
        return sha256_lines(["\t".join(self.columns), *rows])

    def of(self, ids: Collection[str]) -> Metadata:
        """The part of these images, in their order."""
        return Metadata(self.columns, {one: self.values[one] for one in ids})


def read_metadata(layout: Layout, name: str) -> Metadata:
    """Read the file `name`, a CSV in UTF-8 with commas, of a data set.

    Raises:
        SegopsError: As :func:`find_faults`; all faults are listed.
    """
    metadata, faults = _read(layout, name)
    if faults:
        path = layout.root / name
        lines = "\n".join(f"  {one}" for one in faults)
        raise SegopsError(f"{path}: not usable as data.metadata:\n{lines}")
    return metadata


def find_faults(layout: Layout, name: str) -> list[str]:
    """What is wrong with the file `name` of a data set, a sentence each.

    It is missing or no CSV; a column has no name; a name or an image is there twice; a row is of
    another length; no list names an image; an image of train, val or a test that can be scored has
    no row. Images of the other lists may have one.
    """
    return _read(layout, name)[1]


def copy_without(source: Path, target: Path, kept: Collection[str]) -> int:
    """Copy the head and the rows of the images in `kept`.

    Returns:
        The number of rows that are left out.

    Raises:
        SegopsError: `source` is missing or no CSV in UTF-8.
    """
    head, *body = _table(source)
    copied = [row for row in body if row[0].strip() in kept]
    _write(target, [head, *copied])
    return len(body) - len(copied)


def copy_renamed(source: Path, target: Path, renamed: Callable[[str], str]) -> None:
    """Copy the file with other ids: `renamed` of the id of each row.

    Raises:
        SegopsError: As :func:`copy_without`.
    """
    head, *body = _table(source)
    _write(target, [head, *([renamed(row[0].strip()), *row[1:]] for row in body)])


def _table(path: Path) -> list[list[str]]:
    """The rows of the file, the head first; an empty head where it holds none."""
    rows, faults = _rows(path)
    if faults:
        raise SegopsError(f"{path}: {faults[0]}")
    return [*rows.values()] or [[]]


def _write(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _rows(path: Path) -> tuple[dict[int, list[str]], list[str]]:
    """The rows that are not blank by the lines that they end in, or what is wrong with the file."""
    try:
        text = read_file(path).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        numbered = ((rows.line_num, row) for row in rows)
        return {line: row for line, row in numbered if any(cell.strip() for cell in row)}, []
    except FileNotFoundError:
        return {}, ["no such file; expected a CSV whose first column is image_id"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [f"not readable as a CSV in UTF-8: {error}"]


def _read(layout: Layout, name: str) -> tuple[Metadata, list[str]]:
    rows, faults = _rows(layout.root / name)
    if faults:
        return Metadata(), faults
    head, *body = [[cell.strip() for cell in row] for row in rows.values()] or [[]]
    columns = tuple(head[1:])
    if head[:1] != [ID] or not columns:
        return Metadata(), [
            f"its head is {', '.join(head) or 'empty'}; expected {ID} and then a name for each "
            f"further column, separated by commas, as `{ID},camera,site`"
        ]
    faults += [f"column {place} has no name" for place, name in enumerate(head, 1) if not name]
    faults += [f"head: {fault}" for fault in _unfit(head)]
    times = Counter(name for name in head if name)
    faults += [f"column {name!r} is there {n} times" for name, n in times.items() if n > 1]
    values: dict[str, tuple[str, ...]] = {}
    for number, row in zip([*rows][1:], body, strict=True):
        if len(row) != len(head):
            faults.append(f"line {number} has {len(row)} cells; expected {len(head)}, as the head")
            values.setdefault(row[0], ())  # its image has a row: one fault is told, not two
            continue
        faults += [f"line {number}: {fault}" for fault in _unfit(row)]
        if row[0] in values:
            faults.append(f"line {number}: {row[0]!r} has a row before it; expected one an image")
        values[row[0]] = tuple(row[1:])
    known = layout.listed()
    needed = {one for ids in layout.splits().values() for one in ids}
    faults += [
        f"{one!r} is in no list of the data set; remove its row, or correct the id"
        for one in values
        if one not in known
    ]
    faults += [f"{one!r} has no row" for one in sorted(needed - values.keys())]
    return Metadata(columns, values), faults


def _unfit(row: list[str]) -> list[str]:
    """What cells cannot be shown."""
    return [
        f"{cell[:LONGEST]!r} "
        + ("holds control characters" if len(cell) <= LONGEST else f"exceeds {LONGEST} characters")
        for cell in row
        if not cell.isprintable() or len(cell) > LONGEST
    ]
