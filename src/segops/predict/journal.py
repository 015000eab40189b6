"""The journal of a directory of predictions, from which a later run knows what is left to do.

The journal has one line of JSON for every finished image, appended after its outputs are in place;
a killed process leaves at most one torn line, which the next run drops. Images and outputs are
identified by SHA-256 and not by time, because copies and checkouts change the time and no pixel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from segops import files, paths

from .outputs import path_of

JOURNAL = paths.STATE / "predictions.jsonl"
LOCK = paths.STATE / "predict.lock"
FORMAT = 1


@dataclass(frozen=True)
class FinishedImage:
    """A finished image.

    Attributes:
        image: SHA-256 of the image file's content.
        model: Digest of the bundle that predicted it.
        device: Kind of device that predicted it; another kind may round otherwise.
        width: Pixels, as the image is seen (EXIF orientation applied).
        height: Pixels.
        confidence: Mean over the pixels of the top class's probability.
        pixels: Predicted pixels of every class, in id order.
        outputs: SHA-256 of every output by its kind; None where a kind had nothing to show.
    """

    image: str
    model: str
    device: str
    width: int
    height: int
    confidence: float
    pixels: tuple[int, ...]
    outputs: Mapping[str, str | None]


class Journal:
    """The journal of a directory of outputs. Memory holds the offsets of its lines only.

    Args:
        output: The directory; the caller holds its lock.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output / JOURNAL
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b", buffering=0)
        self._lock = Lock()
        self._lines: dict[str, tuple[int, int]] = {}
        self._end = 0
        for line in _whole_lines(self._path):
            if parsed := _parse(line):
                self._lines[parsed[0]] = (len(line), self._end)
            self._end += len(line)
        self._file.truncate(self._end)

    def get(self, mask: str) -> FinishedImage | None:
        """The entry of a mask, by the mask's path below the directory of the outputs."""
        with self._lock:
            place = self._lines.get(mask)
        parsed = place and _parse(os.pread(self._file.fileno(), *place))
        return parsed[1] if parsed else None

    def add(self, mask: str, entry: FinishedImage) -> None:
        """Append the entry of a finished image. May be called from any thread.

        Raises:
            OSError: The line cannot be written whole; the journal is as it was before.
        """
        record = {"format": FORMAT, "mask": mask, **asdict(entry)}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            files.append(self._file, line)
            self._lines[mask] = (len(line), self._end)
            self._end += len(line)

    def close(self, *, compact: bool = False) -> None:
        """Close the file.

        Args:
            compact: First rewrite it: sorted, one line for each mask whose file exists.
        """
        if compact:
            with files.atomic_path(self._path) as temporary, temporary.open("wb") as file:
                for mask in sorted(self._lines):
                    if (self._output / mask).is_file():
                        file.write(os.pread(self._file.fileno(), *self._lines[mask]))
        self._file.close()


def outputs_in(directory: Path) -> set[Path]:
    """The files that predictions wrote into a directory; empty where it has no journal."""
    path = directory / JOURNAL
    if not path.is_file():
        return set()
    entries = (parsed for line in _whole_lines(path) if (parsed := _parse(line)))
    return {path_of(directory / mask, kind) for mask, entry in entries for kind in entry.outputs}


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Every line before the line that a killed process left torn."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def _parse(line: bytes) -> tuple[str, FinishedImage] | None:
    """The mask and the entry of a line; None for a line of another version."""
    try:
        record = json.loads(line)
        if record["format"] != FORMAT:
            return None
        values = {name: record[name] for name in FinishedImage.__dataclass_fields__}
        mask: str = record["mask"]
        return mask, FinishedImage(**{**values, "pixels": tuple(values["pixels"])})
    except (ValueError, KeyError, TypeError):
        return None
