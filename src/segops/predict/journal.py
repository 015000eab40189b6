"""The journal of a directory of predictions, from which a later run knows what is left to do.

It has one line of JSON for every finished image, appended after its outputs are in place; a killed
process leaves at most one torn line, which the next run drops. Images and outputs are identified by
SHA-256 and not by time, because copies and checkouts change the time and no pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from pydantic import ConfigDict, InstanceOf, TypeAdapter

from segops import files, paths

from .outputs import KINDS, path_of

JOURNAL = paths.STATE / "predictions.jsonl"
LOCK = paths.STATE / "predict.lock"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FinishedImage:
    """A finished image: one line of the journal.

    Attributes:
        format: :data:`FORMAT`.
        mask: The mask's path below the directory of the outputs, with slashes.
        image: SHA-256 of the image file's content.
        model: Digest of the bundle that predicted it.
        device: Kind of device that predicted it; another kind may round otherwise.
        width: Pixels, as the image is seen (EXIF orientation applied).
        height: Pixels.
        confidence: Mean over the pixels of the top class's probability.
        pixels: Predicted pixels of every class, in id order.
        outputs: SHA-256 of every output by its kind; None where a kind had nothing to show.
    """

    __pydantic_config__ = ConfigDict(strict=True, revalidate_instances="always")

    format: int
    mask: InstanceOf[str]  # a file's name may hold bytes that are no UTF-8: no text to pydantic
    image: str
    model: str
    device: str
    width: int
    height: int
    confidence: float
    pixels: list[int]
    outputs: Mapping[str, str | None]


_ENTRY = TypeAdapter(FinishedImage)


class Journal:
    """The journal of a directory of outputs; its methods may be called from any thread.

    Args:
        output: The directory; the caller holds its lock.

    Raises:
        SegopsError: A pipe or the like lies in the journal's place.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output / JOURNAL
        self._path.parent.mkdir(parents=True, exist_ok=True)
        files.require_files(self._path.parent)
        self._file = self._path.open("a+b", buffering=0)
        self._lock = Lock()
        # Lines and not objects, which would take several times their memory.
        self._lines: dict[str, bytes] = {}
        end = 0
        for line in _whole_lines(self._path):
            end += len(line)
            if entry := _parsed(line):
                self._lines[entry.mask] = line
        self._file.truncate(end)

    def get(self, mask: str) -> FinishedImage | None:
        """The entry of a mask, by the mask's path below the directory of the outputs."""
        line = self._lines.get(mask)
        return None if line is None else _parsed(line)

    def add(self, entry: FinishedImage) -> None:
        """Append the entry of a finished image.

        Raises:
            OSError: The line cannot be written whole; the journal is as it was before.
        """
        line = json.dumps(asdict(entry), allow_nan=False).encode() + b"\n"
        with self._lock:
            files.append(self._file, line)
            self._lines[entry.mask] = line

    def close(self, *, compact: bool = False) -> None:
        """Close the file.

        Args:
            compact: First rewrite it: sorted, one line for each mask whose file exists.
        """
        if compact:
            masks = (mask for mask in sorted(self._lines) if (self._output / mask).is_file())
            with files.atomic_path(self._path) as temporary, temporary.open("wb") as file:
                file.writelines(self._lines[mask] for mask in masks)
        self._file.close()


def outputs_in(directory: Path) -> set[Path]:
    """The files that predictions wrote into a directory; empty where it has no journal."""
    path = directory / JOURNAL
    if not path.is_file():
        return set()
    entries = filter(None, map(_parsed, _whole_lines(path)))
    return {path_of(directory / entry.mask, kind) for entry in entries for kind in entry.outputs}


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Every line before the line that a killed process left torn."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def _parsed(line: bytes) -> FinishedImage | None:
    """The entry of a line; None for a line of another version or of something else."""
    try:
        entry = _ENTRY.validate_python(FinishedImage(**json.loads(line)))
    except (ValueError, TypeError, RecursionError):
        return None
    if entry.format != FORMAT or min(entry.width, entry.height) < 1 or not Path(entry.mask).name:
        return None
    known = all(kind.partition(" ")[0] in KINDS for kind in entry.outputs)
    return entry if known else None
