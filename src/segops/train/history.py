"""The history of a training: a file with one line for each epoch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segops.files import append, write_text

log = logging.getLogger("segops")


class TrainingLog:
    """JSON lines: a header, a line for each epoch, and a last line when the training has ended.

    Commands that follow a training live read this file.

    Args:
        path: The file.
        fingerprint: Fingerprint of the training.
        params: All parameters by their dotted key.
    """

    def __init__(self, path: Path, fingerprint: str, params: Mapping[str, Any]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.params = dict(params)
        self._waiting: list[str] = []

    def start(self, epochs: int) -> None:
        """Begin the file; keep the lines of the first `epochs` epochs of the same training."""
        lines = self._lines()[: epochs + 1] if epochs else []
        kept = lines[1:] if len(lines) == epochs + 1 and self._is_ours(lines[0]) else []
        header = {
            "fingerprint": self.fingerprint,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "params": self.params,
        }
        first = lines[0] if kept else json.dumps(header)
        write_text(self.path, "".join(f"{line}\n" for line in (first, *kept)))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append an epoch's line."""
        self._append(row)

    def end(self) -> None:
        """Append the last line."""
        self._append({"ended": datetime.now(UTC).isoformat(timespec="seconds")})

    def _append(self, row: Mapping[str, Any]) -> None:
        """Append a line; if the disk is full, write it with the next line."""
        self._waiting.append(json.dumps(row, allow_nan=False) + "\n")
        try:
            with self.path.open("ab", buffering=0) as file:
                append(file, "".join(self._waiting).encode())
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("%s: could not be written: %s.", self.path, error.strerror)
            return
        self._waiting.clear()

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _is_ours(self, header: str) -> bool:
        try:
            return bool(json.loads(header).get("fingerprint") == self.fingerprint)
        except (json.JSONDecodeError, AttributeError):
            return False
