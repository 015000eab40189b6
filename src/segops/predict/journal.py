"""The journal of a directory of predictions, from which a later run knows what is left to do.

It has one line of JSON for every finished image, appended after its outputs are in place; a killed
process leaves at most one torn line, which the next run drops. Images and outputs are identified by
SHA-256 and not by time, because copies and checkouts change the time and no pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from pydantic import ConfigDict, InstanceOf, TypeAdapter

from segops import files, paths

from .image_list import Lines
from .outputs import KINDS, path_of

JOURNAL = paths.STATE / "predictions.jsonl"
SHARDS = paths.STATE / "shards"
"""Where a run keeps what is done of it, and by whom; see :mod:`segops.predict.shards`."""
VIDEOS = paths.STATE / "videos"
"""Where the masks of a video's frames lie until the videos are written."""
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

    A run in one shard appends to the directory's journal. Where several shards are shared, the
    process that holds one appends to a journal of the shard, and the process that ends last puts
    all together.

    Args:
        output: The directory.

    Raises:
        SegopsError: A pipe or the like lies in the journal's place.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output / JOURNAL
        self._path.parent.mkdir(parents=True, exist_ok=True)
        files.require_files(self._path.parent)
        self._lock = Lock()
        self._lines = Lines()
        self._file = self._path.open("a+b", buffering=0)
        self._file.truncate(self._take(self._path))

    def get(self, mask: str) -> FinishedImage | None:
        """The entry of a mask, by the mask's path below the directory of the outputs."""
        with self._lock:
            line = self._lines.get(mask)
        return None if line is None else parsed(line)

    def add(self, entry: FinishedImage) -> None:
        """Append the entry of a finished image.

        Raises:
            OSError: The line cannot be written whole; the journal is as it was before.
        """
        line = line_of(entry)
        with self._lock:
            files.append(self._file, line)
            self._lines.put(entry.mask, line)

    @contextmanager
    def of_shard(self, path: Path, earlier: Iterable[Path]) -> Iterator[None]:
        """Append to a new file meanwhile.

        Args:
            path: The file.
            earlier: Files of the same shard by processes that were killed; their entries count.
        """
        for other in earlier:
            self._take(other)
        usual = self._file
        with path.open("xb", buffering=0) as self._file:
            try:
                yield
            finally:
                self._file = usual

    def absorb(self, paths: Iterable[Path]) -> None:
        """Take over the entries of journals of shards."""
        for path in paths:
            self._take(path)

    def put(self, entry: FinishedImage) -> None:
        """Take over an entry, without appending it to a file."""
        with self._lock:
            self._lines.put(entry.mask, line_of(entry))

    def compact(self) -> None:
        """Rewrite the journal: sorted, one line for each mask whose file exists."""
        with files.atomic_path(self._path) as temporary, temporary.open("wb") as file:
            for mask, line in self._lines.in_order():
                if (self._output / mask).is_file():
                    file.write(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._lines.close()

    def _take(self, path: Path) -> int:
        """Take the entries of a file; the number of its bytes in whole lines."""
        end = 0
        for line in _whole_lines(path):
            end += len(line)
            if entry := parsed(line):
                with self._lock:
                    self._lines.put(entry.mask, line)
        return end


def outputs_in(directory: Path) -> set[Path]:
    """The files that predictions wrote into a directory; empty where it has no journal."""
    if not (directory / JOURNAL).is_file():
        return set()
    paths = [directory / JOURNAL, *(directory / SHARDS).glob(f"*{JOURNAL.suffix}")]
    entries = filter(None, (parsed(line) for path in paths for line in _whole_lines(path)))
    return {path_of(directory / entry.mask, kind) for entry in entries for kind in entry.outputs}


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Every line before the line that a killed process left torn."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def line_of(entry: FinishedImage) -> bytes:
    """An entry as :func:`parsed` reads it."""
    return json.dumps(asdict(entry), allow_nan=False).encode() + b"\n"


def parsed(line: bytes) -> FinishedImage | None:
    """The entry of a line; None for a line of another version or of something else."""
    try:
        entry = _ENTRY.validate_python(FinishedImage(**json.loads(line)))
    except (ValueError, TypeError, RecursionError):
        return None
    if entry.format != FORMAT or min(entry.width, entry.height) < 1 or not Path(entry.mask).name:
        return None
    known = all(kind.partition(" ")[0] in KINDS for kind in entry.outputs)
    return entry if known else None
