"""The history of a training: a file with one line for each epoch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segops.files import append, write_text

log = logging.getLogger("segops")


@dataclass
class TrainingLog:
    """JSON lines: a header, a line for each epoch, and a last line when the training has ended.

    Commands that follow a training live read this file. Its header has the training's fingerprint
    and `params`, all parameters by their dotted key.
    """

    path: Path
    fingerprint: str
    params: Mapping[str, Any]
    _waiting: list[str] = field(default_factory=list, init=False)

    def start(self, epochs: int) -> None:
        """Begin the file; keep the lines of the first `epochs` epochs of the same training."""
        held = self.path.read_text(encoding="utf-8") if epochs and self.path.is_file() else ""
        lines = held.splitlines()[: epochs + 1]
        kept = lines[1:] if len(lines) == epochs + 1 and self._is_ours(lines[0]) else []
        header = {
            "fingerprint": self.fingerprint,
            "started": _now(),
            "params": self.params,
        }
        first = lines[0] if kept else json.dumps(header)
        write_text(self.path, "".join(f"{line}\n" for line in (first, *kept)))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append an epoch's line; if the disk is full, write it with the next line."""
        self._waiting.append(json.dumps(row, allow_nan=False) + "\n")
        try:
            with self.path.open("ab", buffering=0) as file:
                append(file, "".join(self._waiting).encode())
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("%s: could not be written: %s.", self.path, error.strerror)
            return
        self._waiting.clear()

    def end(self) -> None:
        """Append the last line."""
        self.epoch({"ended": _now()})

    def _is_ours(self, header: str) -> bool:
        try:
            return bool(json.loads(header).get("fingerprint") == self.fingerprint)
        except (json.JSONDecodeError, AttributeError):
            return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
