"""The images of a prediction in the order of their names, a million of them in little memory."""

from __future__ import annotations

import hashlib
import os
import posixpath
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segops.runtime.errors import SegopsError
from segops.runtime.file_kinds import no_file

REMOTE = "s3://"
"""Start of an address in a bucket."""

SAMPLED = 16
"""Files of which a list's digest holds more than the name."""
_START_BYTES = 1 << 16

_PLACE = "\0"
"""Stands for an image's place in a message: no path holds it."""

_CACHE = "PRAGMA cache_size=-32768"
"""32 MiB of memory; SQLite keeps the rest in a temporary file, which ends with the process."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image, or a video, to predict.

    Attributes:
        path: Path of the file.
        name: Its path below the directory of the images, with slashes.
        output: The directory of all outputs.
        url: Its address in a bucket, for messages; None for a file of this machine.
        suffix: Suffix of the first output: that of a mask.
    """

    path: Path
    name: str
    output: Path
    url: str | None = None
    suffix: str = ".png"

    @property
    def mask(self) -> str:
        """The mask's path below the directory of the outputs, with slashes."""
        return mask_of(self.name, self.suffix)

    @property
    def mask_path(self) -> Path:
        """The mask's path."""
        return self.output / self.mask

    @property
    def place(self) -> str:
        """What messages call it: its address or its path."""
        return self.url or str(self.path)

    def portable(self, message: str) -> str:
        """A message without the place, which differs between machines; see :meth:`named`."""
        return message.replace(self.place, _PLACE)

    def named(self, message: str, name: str) -> str:
        """A portable message in which the image is called `name`."""
        return message.replace(_PLACE, name)


class SourceList:
    """Sources sorted by name, each with a mask of its own.

    Fill it with :meth:`add`; after the first question it takes no more.

    Args:
        output: Directory of the outputs.
        suffix: As of :class:`Source`.
    """

    def __init__(self, output: Path, suffix: str = ".png") -> None:
        self._output, self._suffix = output, suffix
        self._added = 0
        self._sorted = False
        # An empty name: SQLite holds the table in memory, and in an unnamed file once it is large.
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute(_CACHE)
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("CREATE TABLE added (name BLOB, mask BLOB PRIMARY KEY, place BLOB)")
        self._table.execute("BEGIN")

    def add(self, name: str, place: str) -> bool:
        """Add a source; false where the same one is in already.

        Args:
            name: Its path below the directory of the images, with slashes.
            place: Its path, or its address in a bucket.

        Raises:
            SegopsError: Another source has the same mask.
        """
        mask = mask_of(name, self._suffix)
        row = (_bytes(name), _bytes(mask), os.fsencode(place))
        try:
            self._table.execute("INSERT INTO added VALUES (?, ?, ?)", row)
        except sqlite3.IntegrityError:
            query = "SELECT place FROM added WHERE mask = ?"
            (other,) = self._table.execute(query, row[1:2]).fetchone()
            if other == row[2]:
                return False
            raise SegopsError(
                f"{place} and {os.fsdecode(other)}: both masks would be "
                f"{self._output / mask}. Rename one."
            ) from None
        self._added += 1
        return True

    def __len__(self) -> int:
        """Number of sources."""
        return self._added

    def __bool__(self) -> bool:
        """Whether there is a source."""
        return self._added > 0

    def part(self, start: int, count: int) -> Iterator[Source]:
        """Yield at most `count` sources from the one with the number `start` on."""
        self._sort()
        query = "SELECT name, place FROM sorted WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
        for name, place in self._table.execute(query, (start, start + count)):
            yield self._source(_text(name), os.fsdecode(place))

    def digest(self) -> str:
        """SHA-256 that is the same wherever these sources lie, in hexadecimal.

        It is of all names in their order, and of `SAMPLED` files, evenly spread: of the addresses
        of those in a bucket, else of their sizes and first bytes. All of a million files would be
        read twice.
        """
        self._sort()
        digest = hashlib.sha256()
        for (name,) in self._table.execute("SELECT name FROM sorted ORDER BY rowid"):
            digest.update(name + b"\0")
        last = max(self._added - 1, 0)
        for number in sorted({last * part // (SAMPLED - 1) for part in range(SAMPLED)}):
            for source in self.part(number, 1):
                digest.update(_start(source) + b"\0")
        return digest.hexdigest()

    def directories(self) -> Iterator[Path]:
        """Yield the directories of all masks, some several times."""
        last = None
        for source in self.part(0, len(self)):
            if source.mask_path.parent != last:
                last = source.mask_path.parent
                yield last

    def _source(self, name: str, place: str) -> Source:
        path, url = (Path(), place) if place.startswith(REMOTE) else (Path(place), None)
        return Source(path, name, self._output, url, self._suffix)

    def _sort(self) -> None:
        if not self._sorted:
            self._sorted = True
            self._table.execute(
                "CREATE TABLE sorted AS SELECT name, place FROM added ORDER BY name"
            )
            self._table.execute("DROP TABLE added")
            self._table.execute("COMMIT")


def _start(source: Source) -> bytes:
    """The address of a source, or the size and the first bytes of its file."""
    if source.url is not None:
        return _bytes(source.url)
    try:
        if (kind := no_file(source.path.stat().st_mode)) is not None:  # a pipe would be waited for
            return kind.encode()
        with source.path.open("rb") as file:
            return b"%d %b" % (os.fstat(file.fileno()).st_size, file.read(_START_BYTES))
    except OSError as error:  # what it is when its turn comes, its row in the table says
        return b"errno %d" % (error.errno or 0)


def mask_of(name: str, suffix: str) -> str:
    """The path of a mask below the directory of the outputs, by its source's name."""
    return posixpath.splitext(name)[0] + suffix


class Lines:
    """Lines of bytes by name, a million of them in little memory; for any thread under a lock."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._table.execute(_CACHE)
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("CREATE TABLE lines (name BLOB PRIMARY KEY, line BLOB)")
        self._table.execute("BEGIN")

    def get(self, name: str) -> bytes | None:
        """The line of a name."""
        query = "SELECT line FROM lines WHERE name = ?"
        found = self._table.execute(query, (_bytes(name),)).fetchone()
        return None if found is None else found[0]

    def put(self, name: str, line: bytes) -> None:
        """Give a name its line, in place of an earlier one."""
        row = (_bytes(name), line)
        self._table.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", row)

    def in_order(self) -> Iterator[tuple[str, bytes]]:
        """Yield names and lines, sorted by name."""
        for name, line in self._table.execute("SELECT name, line FROM lines ORDER BY name"):
            yield _text(name), line

    def close(self) -> None:
        """Free the memory and the temporary file."""
        self._table.close()


def _bytes(text: str) -> bytes:
    """A text as bytes that sort as it does; a file's name may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
