"""Many small pictures in one file, which is far quicker to write safely than a file for each."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from segops import files
from segops.runtime.errors import SegopsError

INDEX = ".json"
CONTENT = ".bin"


class AlbumWriter:
    """Writes an album, a picture at a time; to be used as a context.

    Args:
        place: Path of the album without a suffix; its directory must exist.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._index: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> AlbumWriter:
        self._file = self._place.with_suffix(CONTENT).open("wb")
        return self

    def add(self, name: str, content: bytes) -> None:
        """Add a picture's file under a name that is new."""
        self._file.write(content)
        self._index[name] = (self._end, len(content))
        self._end += len(content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            files.write_json(self._place.with_suffix(INDEX), self._index)


class Album:
    """Reads an album.

    Args:
        place: Path of the album without a suffix.

    Raises:
        SegopsError: There is none.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._index = files.read_json(place.with_suffix(INDEX))

    def read(self, name: str) -> bytes:
        """The file of a picture.

        Raises:
            SegopsError: The album holds no such picture.
        """
        if name not in self._index:
            raise SegopsError(f"{self._place}: holds no picture of {name}.")
        start, length = self._index[name]
        with self._place.with_suffix(CONTENT).open("rb") as file:
            file.seek(start)
            return file.read(length)
