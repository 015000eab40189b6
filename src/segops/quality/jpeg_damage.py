"""Finds photographs that a decoder takes although their JPEG data are damaged.

Where the data end early libjpeg fills the rest with grey, after damage it goes on with shifted
blocks, and it only warns of both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from io import BufferedReader, FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import pandas as pd

from segops.children import child_environment
from segops.progress import track
from segops.quality import jpeg_reader
from segops.quality.checks import Notice
from segops.quality.facts import MAX_WORKERS
from segops.runtime.errors import SegopsError
from segops.threads import cores, pipelined
from segops.words import counted

PADDING = 16
"""So many bytes behind the pixels are padding of some cameras; more are pixels that are lost."""
A_READER = 500
"""Files for which a process of its own pays."""
_WARNING = re.compile(r"(?:Corrupt JPEG data|Premature end of JPEG file)(?:: )?(.*)")
_LEFT = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_NAMED = 5
_LAST_WORDS = 15


def with_damage(
    facts: pd.DataFrame, root: Path, workers: int | None = None
) -> tuple[pd.DataFrame, tuple[Notice, ...]]:
    """Decode the photographs of a facts table once more and write their damage into it.

    Only photographs without an error are decoded, so that the bound on pixels holds.

    Args:
        facts: Of :func:`segops.quality.facts.scan`.
        root: The data set.
        workers: Processes at most; None or 0: one per core, `MAX_WORKERS` at most.

    Returns:
        The table, with an `image_error` for each damaged photograph, and a warning about those
        with a little padding behind their pixels.

    Raises:
        SegopsError: A process that decodes does not start.
    """
    sound = facts.loc[facts["image_error"].isna(), "image_path"].dropna()
    names = list(dict.fromkeys(sound))
    said = dict(zip(names, _warnings([root / name for name in names], workers), strict=True))
    errors: dict[str, str] = {}
    padded: list[str] = []
    for name, lines in said.items():
        if any(int(_left(line) or PADDING + 1) > PADDING for line in lines):
            errors[name] = (
                f"its JPEG data are damaged ({', '.join(lines)}): a part of the picture is grey or "
                "shifted. Replace the file, or leave the image out."
            )
        elif lines:
            padded.append(name)
    if errors:
        added = facts["image_path"].map(errors)
        facts = facts.assign(image_error=facts["image_error"].where(added.isna(), added))
    return facts, _notices(padded)


def _left(line: str) -> str | None:
    found = _LEFT.fullmatch(line)
    return found[1] if found else None


def _notices(padded: list[str]) -> tuple[Notice, ...]:
    if not padded:
        return ()
    more = f" and {len(padded) - _NAMED} more" if len(padded) > _NAMED else ""
    return (
        Notice(
            "bytes behind the pixels",
            f"{counted(len(padded), 'photograph')} with a few bytes between the pixels and the end "
            f"of the JPEG data: {', '.join(padded[:_NAMED])}{more}.",
            "",
            "Some cameras write such padding. Look whether the pictures are whole.",
        ),
    )


def _warnings(paths: list[Path], workers: int | None) -> list[list[str]]:
    """What libjpeg warns of, for each file."""
    count = min(workers or min(MAX_WORKERS, cores()), 1 + len(paths) // A_READER)
    readers: SimpleQueue[_Reader] = SimpleQueue()

    def ask(path: Path) -> list[str]:
        reader = readers.get()
        try:
            return reader.ask(path)
        finally:
            readers.put(reader)

    with ExitStack() as stack:
        for _ in range(count if paths else 0):
            readers.put(stack.enter_context(_Reader()))
        results = pipelined(paths, ask, count, 4 * count)
        return list(track(results, "Looking for damage in JPEG data", len(paths)))


class _Reader:
    """A process of :mod:`segops.quality.jpeg_reader`; it ends when its input does."""

    def __enter__(self) -> _Reader:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", jpeg_reader.__name__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**child_environment(), "OPENCV_LOG_LEVEL": "OFF"},
        )
        self._lines = BufferedReader(cast(FileIO, self._process.stderr))
        self._has_started = False
        return self

    def __exit__(self, *_: object) -> None:
        cast(FileIO, self._process.stdin).close()
        self._lines.close()
        self._process.wait()

    def ask(self, path: Path) -> list[str]:
        """Decode a file; what libjpeg warns of, each warning once.

        Where the process ends, a new one tries once more: another program may have ended it.
        """
        for _ in range(2):
            try:
                if not self._has_started:
                    self._start()
                cast(FileIO, self._process.stdin).write(
                    json.dumps(os.fspath(path)).encode() + b"\n"
                )
                lines, is_whole = self._lines_to_end()
            except BrokenPipeError:
                is_whole = False
            if is_whole:
                found = filter(None, map(_WARNING.search, lines))
                said = (one[1].strip() or "premature end of the file" for one in found)
                return list(dict.fromkeys(said))
            self.__exit__()
            self.__enter__()
        return ["a decoder crashed on them"]

    def _start(self) -> None:
        said, self._has_started = self._lines_to_end()
        if not self._has_started:
            words = "\n".join(f"  {line}" for line in said[-_LAST_WORDS:])
            raise SegopsError(
                "The process that looks for damage in JPEG data does not start. Its last words:\n"
                f"{words}"
            )

    def _lines_to_end(self) -> tuple[list[str], bool]:
        """Its lines up to `END`, and whether that came."""
        lines: list[str] = []
        while (line := self._lines.readline()) != jpeg_reader.END:
            if not line:
                return lines, False
            lines.append(line.decode(errors="replace").rstrip())
        return lines, True
