"""Maps the labels of a source to class ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.importers.source import BACKGROUND, VOID_NAME, Drawn
from segops.runtime.classes import VOID, hexadecimal
from segops.runtime.errors import SegopsError
from segops.runtime.images import read_content
from segops.words import counted

REMEDY = (
    "Name the classes of values with --values 0=background,255=crack, of values that are ids with "
    "--classes (`--classes voc`: VOC's), of colours with --colors FILE (`--colors voc`: VOC's). "
    "--ignore sends a label to void."
)
SHOWN = 20
"""Most labels in the message on labels that are not mapped."""
_PIXEL = re.compile(r"\d{1,3}|#[0-9a-f]{6}")
"""A label that is a value or a colour; masks may hold some that nothing names."""


@dataclass(frozen=True)
class Rules:
    """How a user wants labels to be mapped.

    Attributes:
        names: Label -> class name. Empty: a label is the name of its class.
        merge: Class name -> the names that become this class.
        ignore: Names or labels that become void.
        classes: All class names in id order; empty: in the order of the source's labels.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()


@dataclass
class Labelling:
    """Class ids of labels, and the labels that were met without one.

    Attributes:
        classes: Class names in id order.
        ids: Label -> class id; 255 is void.
        unmapped: Label without an id -> pixels that were met.
        example: Such a label -> an image that holds it.
        colors: Such a label -> its colour in this image, where a palette gives it one.
        remedy: What a user can do about it.
    """

    classes: tuple[str, ...]
    ids: dict[str, int]
    unmapped: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    colors: dict[str, str] = field(default_factory=dict)
    remedy: str = REMEDY

    def mask(self, drawn: Drawn, image_id: str) -> NDArray[np.uint8]:
        """Return the mask of an image, uint8 (H, W); labels without an id become void."""
        table = np.full(len(drawn.labels), VOID, np.uint8)
        for index, label in enumerate(drawn.labels):
            if label in self.ids:
                table[index] = self.ids[label]
                continue
            pixels = int((drawn.indices == index).sum())
            if pixels:
                self.unmapped[label] += pixels
                if self.example.setdefault(label, image_id) == image_id and drawn.colors:
                    self.colors[label] = drawn.colors[index]
        mask: NDArray[np.uint8] = table[drawn.indices]
        return mask

    def problems(self) -> list[str]:
        """Return a line for each label that was met and is not mapped, for the largest of many."""
        lines = [
            f"label {self._named(label)} is not mapped: {counted(pixels, 'pixel')}, as in "
            f"{self.example[label]}"
            for label, pixels in self.unmapped.most_common(SHOWN)
        ]
        if len(self.unmapped) > SHOWN:
            lines.append(f"{len(self.unmapped) - SHOWN} more labels are not mapped")
        return lines

    def _named(self, label: str) -> str:
        return f"{label} (shown as {self.colors[label]})" if label in self.colors else label


def labelling(rules: Rules, labels: Sequence[str]) -> Labelling:
    """Return the class ids of a source's labels.

    Args:
        rules: What the user wants.
        labels: The labels that the source declares, in the order of their ids.

    Raises:
        SegopsError: The rules name what does not exist, or give too many or too few classes.
    """
    # Without names each label is its own name.
    names = dict(rules.names) or {label: label for label in labels}
    names |= {label: VOID_NAME for label in rules.ignore if _PIXEL.fullmatch(label)}
    known = {*names.values(), *names}
    wanted = [*rules.ignore, *(one for members in rules.merge.values() for one in members)]
    if unknown := [
        one for one in dict.fromkeys(wanted) if one not in known and not _PIXEL.fullmatch(one)
    ]:
        raise SegopsError(
            f"--merge and --ignore name {', '.join(unknown)}, which the data do not have. They "
            f"have: {', '.join(dict.fromkeys(names.values()))}."
        )
    into = {member: name for name, members in rules.merge.items() for member in members}
    of_label: dict[str, str | None] = {}
    for label, name in names.items():
        ignored = name.lower() == VOID_NAME or bool({label, name} & rules.ignore)
        of_label[label] = None if ignored else into.get(name, into.get(label, name))
    met = [name for name in dict.fromkeys(of_label.values()) if name is not None]
    classes = rules.classes or tuple(sorted(met, key=lambda name: name != BACKGROUND))
    if absent := [name for name in met if name not in classes]:
        raise SegopsError(
            f"--classes lacks {', '.join(absent)}. Name all classes in id order, or take a class "
            "out with --ignore or --merge."
        )
    if names and not 2 <= len(classes) <= VOID:
        raise SegopsError(
            f"{counted(len(classes), 'class')} ({', '.join(classes[:5])}): expected 2 to {VOID}."
        )
    ids: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    ids[None] = VOID
    return Labelling(
        classes,
        {VOID_NAME: VOID, **{label: ids[name] for label, name in of_label.items()}},
        # Sources that declare their labels take no mapping.
        remedy="--ignore sends a label to void." if labels else REMEDY,
    )


def parsed_pairs(text: str, option: str) -> dict[str, str]:
    """Read `A=B,C=D`.

    Raises:
        SegopsError: It has another form; the message names `option`.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not (key and sign and value) or key in pairs:
            raise SegopsError(f"{option}: {part!r}: expected each KEY=NAME once, as in 0=a,1=b.")
        pairs[key] = value
    return pairs


def parsed_merges(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read `NAME=A,B` of each option `--merge`.

    Raises:
        SegopsError: One has another form.
    """
    merges: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, sign, members = text.partition("=")
        parts = tuple(filter(None, (part.strip() for part in members.split(","))))
        if not (name.strip() and sign and parts):
            raise SegopsError(f"--merge: {text!r}: expected NAME=A,B: A and B become class NAME.")
        merges[name.strip()] = (*merges.get(name.strip(), ()), *parts)
    return merges


def read_colors(path: Path) -> dict[str, str]:
    """Read a table of colours: a line for each, with a name and three values or `#rrggbb`.

    Name and colour stand in either order, separated by commas, semicolons, tabs or spaces. CVAT's
    ``labelmap.txt`` (`name:r,g,b:parts:actions`) is such a table. Lines with a `#` and a space at
    the start are comments.

    Returns:
        Colour such as `#00ff80` -> class name.

    Raises:
        SegopsError: The file cannot be read, or a line has another form; the message names it.
    """
    try:
        lines = read_content(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SegopsError(f"{path}: this table of colours cannot be read: {error}.") from None
    colors: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("# "):
            continue
        pair = _color_and_name(line)
        if pair is None:
            if number == 1 and not re.search(r"\d", line):
                continue  # names of columns
            raise SegopsError(
                f"{path}, line {number}: {line.strip()!r}: expected a class name and a colour, as "
                "in `crack 255 0 0` or `crack,#ff0000`."
            )
        color, name = pair
        if color in colors:
            raise SegopsError(f"{path}, line {number}: {color} is given twice.")
        colors[color] = name
    if not colors:
        raise SegopsError(f"{path}: holds no colour; expected a class name and a colour a line.")
    return colors


def _color_and_name(line: str) -> tuple[str, str] | None:
    cvat = re.fullmatch(r"([^:]+):(\d+),(\d+),(\d+)(:.*)?", line.strip())
    if cvat is not None:
        values, name = [int(cvat[index]) for index in (2, 3, 4)], cvat[1].strip()
    else:
        cells = _cells(line)
        hexes = [cell for cell in cells if re.fullmatch("#[0-9a-fA-F]{6}", cell)]
        if len(hexes) == 1:
            cells.remove(hexes[0])
            digits = bytes.fromhex(hexes[0][1:])
            values, name = list(digits), " ".join(cells)
        elif len(cells) > 3 and all(cell.isdecimal() for cell in cells[:3]):
            values, name = [int(cell) for cell in cells[:3]], " ".join(cells[3:])
        elif len(cells) > 3 and all(cell.isdecimal() for cell in cells[-3:]):
            values, name = [int(cell) for cell in cells[-3:]], " ".join(cells[:-3])
        else:
            return None
    if not name or max(values) > 255:
        return None
    return hexadecimal(values), name


def _cells(line: str) -> list[str]:
    parts = re.split(r"[,;\t]", line) if re.search(r"[,;\t]", line) else line.split()
    cells = [part.strip(' "') for part in parts]
    # The values of a colour may be separated by spaces where names are separated by tabs.
    spaced = [cell.split() if re.fullmatch(r"[\d\s]+", cell) else [cell] for cell in cells]
    return [cell for found in spaced for cell in found if cell]
