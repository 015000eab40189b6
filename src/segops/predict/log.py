"""The prediction log: what is kept of each predicted image, one line of JSON each.

Each process writes files of its own into the log's directory, one a day, and appends whole lines.
Processes therefore do not disturb one another, and a killed one leaves at most one torn line.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segops import files
from segops.runtime.errors import SegopsError

from .observe import Observation, Predicted

FORMAT = 1
SUFFIX = ".jsonl"
OWN = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}\.jsonl")
"""Name of a file that a process began."""
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Logged:
    """A line of the log.

    Attributes:
        time: When the image was predicted, UTC.
        model: Digest of the bundle that predicted it, by itself or by an export of it.
        observation: What is kept of it.
        name: The name of its file, where the log was asked for names.
    """

    time: datetime
    model: str
    observation: Observation
    name: str | None = None


class _Predicted(BaseModel):
    """As :class:`segops.predict.observe.Predicted`; the embedding in base64, little-endian."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    shares: tuple[Share, ...]
    confidence: Share
    entropy: float | None
    embedding: str | None


class _Line(BaseModel):
    """A line as JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    time: datetime
    model: str
    name: str | None = None
    pixels: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    statistics: tuple[float, ...]
    predicted: _Predicted | None


class PredictionLog:
    """Appends to files of its own in a directory; its methods may be called from any thread.

    A day, in UTC, has a file of its own, which is made with its first line.

    Args:
        directory: The log.
        model: Digest of the bundle that predicts, by itself or by an export of it.
        names: Whether to write the names of the images' files, which may be private.
    """

    def __init__(self, directory: Path, model: str, *, names: bool = False) -> None:
        self._directory = directory
        self._path: Path | None = None
        self._model = model
        self._names = names
        self._lock = Lock()

    def add(self, observation: Observation, name: str) -> None:
        """Append what is kept of an image.

        Raises:
            OSError: The line cannot be written whole; the file is as it was before.
        """
        # A file's name need not be UTF-8; the log is.
        told = name.encode(errors="backslashreplace").decode() if self._names else None
        logged = Logged(_now(), self._model, observation, told)
        with self._lock:
            if self._path is None or not self._path.name.startswith(f"{logged.time:%Y%m%d}"):
                name = f"{logged.time:%Y%m%dT%H%M%S%fZ}-{uuid4().hex[:8]}{SUFFIX}"  # as OWN has it
                self._path = self._directory / name
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                files.append(file, line_of(logged))


def is_log(path: Path) -> bool:
    """Whether a path is a file of a prediction log, or a directory that holds one."""
    return bool(log_files(path))


def log_files(path: Path) -> list[Path]:
    """The files of a log, the oldest first; empty where the path is no log."""
    if path.is_file():
        return [path] if path.suffix == SUFFIX else []
    return sorted(path.glob(f"*{SUFFIX}"))


def own_files(directory: Path) -> list[Path]:
    """The files of a log that processes of segops wrote, and no other; the oldest first."""
    return [path for path in log_files(directory) if OWN.fullmatch(path.name)]


def read_log(path: Path) -> Iterator[Logged]:
    """Yield the lines of a log, or of a single file of it; a torn last line is left out.

    Raises:
        SegopsError: A line is no line of a prediction log; it is named.
    """
    for file in log_files(path):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield parsed(line)
                except ValueError as error:
                    raise SegopsError(
                        f"{file}:{number}: no line of a prediction log: {_reason(error)}. Remove "
                        "the line, or the file."
                    ) from None


def line_of(logged: Logged) -> bytes:
    """A line as :func:`parsed` reads it."""
    one, kept = logged.observation, logged.observation.predicted
    predicted = None
    if kept is not None:
        embedding = None
        if kept.embedding is not None:
            embedding = base64.b64encode(kept.embedding.astype("<f2").tobytes()).decode()
        predicted = {
            "shares": kept.shares,
            "confidence": kept.confidence,
            "entropy": kept.entropy,
            "embedding": embedding,
        }
    tree: dict[str, Any] = {
        "format": FORMAT,
        "time": logged.time.isoformat(timespec="seconds"),
        "model": logged.model,
        **({} if logged.name is None else {"name": logged.name}),
        "pixels": one.pixels,
        "width": one.width,
        "height": one.height,
        "statistics": one.statistics,
        "predicted": predicted,
    }
    return json.dumps(tree, allow_nan=False).encode() + b"\n"


def parsed(line: bytes) -> Logged:
    """The content of a line.

    Raises:
        ValueError: It is no line of this format.
    """
    tree = _Line.model_validate_json(line)
    predicted = None
    if tree.predicted is not None:
        kept = tree.predicted
        embedding = None
        if kept.embedding is not None:
            content = base64.b64decode(kept.embedding, validate=True)
            embedding = np.frombuffer(content, "<f2").astype(np.float16)
            if not np.isfinite(embedding).all():
                raise ValueError("the embedding is not finite")
        predicted = Predicted(kept.shares, kept.confidence, kept.entropy, embedding)
    observation = Observation(tree.pixels, tree.width, tree.height, tree.statistics, predicted)
    time = tree.time if tree.time.tzinfo else tree.time.replace(tzinfo=UTC)
    return Logged(time, tree.model, observation, tree.name)


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)


def _now() -> datetime:
    return datetime.now(UTC)
