"""Compares Python's byte code with its source, without unmarshalling it.

`marshal` is not safe on content of others, and writes the same code in several ways: whether it
refers back to an object depends on what else the process holds. Here both are read as plain data.
"""

from __future__ import annotations

import marshal
import sys
from importlib.util import MAGIC_NUMBER
from io import BytesIO
from pathlib import Path
from typing import Any

HEADER = 16
"""Bytes of magic number, flags, and time and size or hash of the source."""
FLAG = 0x80
"""Marks an object that later ones may refer to."""
SINGLE, TEXTS = b"NFTS.", {b"z": 1, b"Z": 1, b"a": 4, b"A": 4, b"u": 4, b"t": 4, b"s": 4}
NUMBERS = {b"i": 4, b"g": 8, b"y": 16}
COLLECTIONS = {b")": 1, b"(": 4, b"<": 4, b">": 4}
CODE, FILENAME = "iiiiiooooooooioo", 10
"""Fields of a code object in Python 3.11 to 3.13, numbers and objects, and that of the filename."""


def is_of(compiled: Path, source: Path) -> bool:
    """Whether a file holds what this Python compiles from a source; else other code may be in it.

    Args:
        compiled: A file as ``__pycache__/NAME.cpython-311.pyc``.
        source: The source's file.
    """
    expected = source.with_suffix(f".{sys.implementation.cache_tag}.pyc").name
    if compiled.is_symlink() or not compiled.is_file() or compiled.name != expected:
        return False
    content = compiled.read_bytes()
    code = compile(source.read_bytes(), source.name, "exec", dont_inherit=True)
    try:
        is_same = _read(content[HEADER:]) == _read(marshal.dumps(code))
    except (ValueError, RecursionError):
        return False
    return is_same and content.startswith(MAGIC_NUMBER)


def _read(content: bytes) -> Any:
    """Return marshalled content as nested tuples, without names of files.

    Raises:
        ValueError: It holds something else than the code of a module, or is damaged.
    """
    stream, seen = BytesIO(content), list[Any]()

    def take(size: int) -> bytes:
        found = stream.read(size)
        if len(found) != size:
            raise ValueError("it ends too early")
        return found

    def number(size: int) -> int:
        return int.from_bytes(take(size), "little")

    def read() -> Any:
        (first,) = take(1)
        kind, place = bytes([first & ~FLAG]), len(seen)
        if kind == b"r":
            place = number(4)
            return seen[place] if place < len(seen) else None
        if first & FLAG:
            seen.append(None)
        value: Any = kind
        if kind in TEXTS:
            value = "bytes" if kind == b"s" else "text", take(number(TEXTS[kind]))
        elif kind in NUMBERS:
            value = kind, take(NUMBERS[kind])
        elif kind in COLLECTIONS:
            value = kind in b"<>", *(read() for _ in range(number(COLLECTIONS[kind])))
        elif kind == b"c":
            fields = [take(4) if field == "i" else read() for field in CODE]
            value = "code", *fields[:FILENAME], *fields[FILENAME + 1 :]
        elif kind not in SINGLE:
            raise ValueError(f"unknown kind {kind!r}")
        if first & FLAG:
            seen[place] = value
        return value

    value = read()
    if stream.read(1):
        raise ValueError("something follows it")
    return value
