"""What predictions of a directory have done, so that a later run does only the rest.

One line of JSON for every image that is done, appended when all its outputs lie in their places; a
killed process leaves at most one torn line, which is dropped. An image is known by the SHA-256 of
its content, not by its time: copies and checkouts change times and no pixel, and a picture edited
within one tick, or put back with its old time, keeps its time and changes. To hash a photograph
takes a small part of the time that decoding it does. Outputs are known by their SHA-256 too, so one
that was cut off, changed or deleted is made again.
"""

from __future__ import annotations

import errno
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
class Entry:
    """An image that is done.

    Attributes:
        image: SHA-256 of the image file's content.
        model: Digest of the bundle that predicted it.
        device: Kind of device that it was predicted on; another may round otherwise.
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
    """The journal of a directory of outputs. Only places of lines are held in memory.

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
            parsed = _parse(line)
            if parsed is not None:
                self._lines[parsed[0]] = (self._end, len(line))
            self._end += len(line)
        self._file.truncate(self._end)

    def get(self, mask: str) -> Entry | None:
        """What is known of a mask, by its path below the directory of the outputs."""
        with self._lock:
            place = self._lines.get(mask)
        parsed = None if place is None else _parse(self._read(place))
        return None if parsed is None else parsed[1]

    def add(self, mask: str, entry: Entry) -> None:
        """Say that an image is done. May be called from any thread.

        Raises:
            OSError: The line could not be written whole; the journal is as it was before.
        """
        record = {"format": FORMAT, "mask": mask, **asdict(entry)}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            if self._file.write(line) != len(line):  # as it is where the disk becomes full
                self._file.truncate(self._end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            self._lines[mask] = (self._end, len(line))
            self._end += len(line)

    def close(self, *, compact: bool = False) -> None:
        """Close the file.

        Args:
            compact: Write it anew first: sorted, one line for each mask that still lies there.
        """
        if compact:
            with files.atomic_path(self._path) as temporary, temporary.open("wb") as file:
                for mask in sorted(self._lines):
                    if (self._output / mask).is_file():
                        file.write(self._read(self._lines[mask]))
        self._file.close()

    def _read(self, place: tuple[int, int]) -> bytes:
        offset, length = place
        return os.pread(self._file.fileno(), length, offset)


def written(output: Path) -> set[Path]:
    """The outputs that a prediction wrote below a directory; empty where there was none."""
    path = output / JOURNAL
    if not path.is_file():
        return set()
    found: set[Path] = set()
    for line in _whole_lines(path):
        parsed = _parse(line)
        if parsed is not None:
            mask, entry = parsed
            found.update(path_of(output / mask, kind) for kind in entry.outputs)
    return found


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Every line up to the one that a killed process tore."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def _parse(line: bytes) -> tuple[str, Entry] | None:
    """A line's mask and what it says of it; None for a line that another version wrote."""
    try:
        record = json.loads(line)
        if record["format"] != FORMAT:
            return None
        values = {name: record[name] for name in Entry.__dataclass_fields__}
        mask: str = record["mask"]
        return mask, Entry(**{**values, "pixels": tuple(values["pixels"])})
    except (ValueError, KeyError, TypeError):
        return None
