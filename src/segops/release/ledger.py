"""The ledger: an append-only file of every decision and every change of an alias.

Each line is a JSON object with its sequence number and the SHA-256 of the line before, so a
changed, removed or inserted line is detected. MLflow itself keeps no history of aliases.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segops import files, paths
from segops.record.tracking import locked
from segops.runtime.errors import SegopsError

GENESIS = "0" * 64
EntryKind = Literal["decision", "observed", "intent", "done", "abandoned"]


class Entry(BaseModel):
    """One line of the ledger.

    Attributes:
        sequence: Line number, from 1.
        previous: SHA-256 of the line before, hexadecimal; zeros for the first.
        time: When it was written, UTC, ISO 8601.
        kind: `decision` of the gate; `observed`, an alias that was not set by segops;
            `intent` to change aliases, followed by `done` or `abandoned`.
        registry: The registry's address without credentials, or `local`.
        model: Name of the registered model.
        version: The version concerned; empty where it could not be established.
        run_id: That version's run.
        verdict: The gate's verdict, or the action: `promote`, `rollback`, `observed`.
        reason: The reason in words.
        by: Who or what did it.
        details: Checks, evidence, aliases before and after, depending on the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    previous: str
    time: str
    kind: EntryKind
    registry: str
    model: str
    version: str
    run_id: str
    verdict: str
    reason: str
    by: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The lines of a main checkout's ledger about one model in one registry.

    Attributes:
        root: A workspace of that checkout.
        registry: The registry's identity; see :func:`segops.record.tracking.identity`.
        model: Name of the registered model.
    """

    root: Path
    registry: str
    model: str

    @property
    def path(self) -> Path:
        """The file."""
        return paths.state_home(self.root) / "ledger.jsonl"

    def entries(self) -> list[Entry]:
        """The lines about this model in this registry, oldest first.

        Raises:
            SegopsError: The file was tampered with.
        """
        return [
            entry
            for entry in read(self.path)
            if (entry.registry, entry.model) == (self.registry, self.model)
        ]

    def append(
        self,
        kind: EntryKind,
        *,
        verdict: str,
        reason: str,
        by: str,
        version: str = "",
        run_id: str = "",
        details: dict[str, Any] | None = None,
    ) -> Entry:
        """Write a line and sync it to the disk before returning.

        Args:
            kind: As in :class:`Entry`, like the other arguments.
            verdict: As there.
            reason: As there.
            by: As there.
            version: As there.
            run_id: As there.
            details: As there; numbers that are not finite become null.

        Raises:
            SegopsError: The file was tampered with.
            TransientError: Another process holds the ledger.
        """
        with locked(self.root, "ledger"):
            lines, complete = _lines(self.path)
            entries = _parse(self.path, lines)
            entry = Entry(
                sequence=len(entries) + 1,
                previous=files.sha256_bytes(lines[-1]) if lines else GENESIS,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                kind=kind,
                registry=self.registry,
                model=self.model,
                version=version,
                run_id=run_id,
                verdict=verdict,
                reason=reason,
                by=by,
                details=finite(details or {}),
            )
            _write(self.path, complete, to_line(entry))
            return entry


def to_line(entry: Entry) -> bytes:
    """Return an entry as a line of the ledger, without the line end."""
    tree = entry.model_dump(mode="json")
    return json.dumps(tree, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def read(path: Path) -> list[Entry]:
    """Read and check a whole ledger; an absent file is an empty ledger.

    A last line without its line end is an interrupted write and is ignored.

    Raises:
        SegopsError: A line was changed, removed or inserted; the message names it.
    """
    return _parse(path, _lines(path)[0])


def finite(value: Any) -> Any:
    """Return `value` ready for JSON: NaN and infinities become None, tuples become lists."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _lines(path: Path) -> tuple[list[bytes], int]:
    """Return the complete lines without their ends, and their length in bytes."""
    content = path.read_bytes() if path.exists() else b""
    complete = content.rfind(b"\n") + 1
    return content[:complete].split(b"\n")[:-1], complete


def _parse(path: Path, lines: list[bytes]) -> list[Entry]:
    entries: list[Entry] = []
    previous = GENESIS
    for number, line in enumerate(lines, 1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            raise _tampered(path, number, "is not an entry") from None
        if entry.sequence != number:
            raise _tampered(path, number, f"has the sequence number {entry.sequence}")
        if entry.previous != previous:
            raise _tampered(path, number, "does not fit the line before it")
        previous = files.sha256_bytes(line)
        entries.append(entry)
    return entries


def _tampered(path: Path, number: int, what: str) -> SegopsError:
    return SegopsError(
        f"{path}: line {number} {what}: the ledger was changed by other means than segops. "
        "Restore it from a backup; the artifacts `decisions/` of the runs in MLflow hold its lines."
    )


def _write(path: Path, complete: int, line: bytes) -> None:
    created = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(handle, complete)
        os.lseek(handle, complete, os.SEEK_SET)
        content = line + b"\n"
        while content:
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if created:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
