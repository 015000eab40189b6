"""The entries of a ledger, and the check of each against the one before."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segops import files, paths
from segops.runtime.errors import SegopsError

GENESIS = "0" * 64
EntryKind = Literal[
    "decision",
    "observed",
    "adopted",
    "intent",
    "done",
    "abandoned",
    "reinstated",
    "smoke",
    "approved",
    "reproduced",
    "tested",
]


class Entry(BaseModel):
    """An entry of the ledger.

    Attributes:
        sequence: Its number, from 1; void entries have none.
        previous: SHA-256 of the entry before, hexadecimal; zeros for the first.
        time: When it was written, UTC, ISO 8601.
        kind: `decision` of the gate; `observed`, a champion that was not set by segops; `adopted`,
            such a champion that a person vouched for; `intent` to change aliases, followed by
            `done` or `abandoned`; `reinstated`, a withdrawal that a person undid;
            `smoke`, the test of a champion after its promotion; `approved`, a candidate that a
            person approved; `reproduced`, a machine's attempt to make a version again; `tested`, a
            score on the test split, which decides nothing.
        registry: The registry's address without credentials, or `local`.
        model: Name of the registered model.
        version: The version concerned; empty where it could not be established.
        run_id: That version's run.
        verdict: The gate's verdict, or the action: `promote`, `rollback`, `observed`, `adopt`,
            `reinstate`, `passed`, `failed`, `approve`, `scored`; of a reproduction its outcome.
        reason: The reason in words.
        by: Who or what did it.
        details: Checks, evidence, aliases before and after, depending on the kind.
        nonce: Tells entries apart that are equal otherwise; empty before the ledger moved here.
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
    nonce: str = ""


class TamperedError(SegopsError):
    """The ledger was changed by other means than segops."""


@dataclass
class Chain:
    """Entries, each checked against the one before.

    Attributes:
        where: Where they lie, for messages.
        entries: Those that count, oldest first.
        head: SHA-256 of the last one.
        number: Version number of the last line, void lines included.
        line: That line.
    """

    where: str
    entries: list[Entry] = field(default_factory=list)
    head: str = GENESIS
    number: int = 0
    line: str = ""
    known: set[str] = field(default_factory=lambda: {GENESIS})

    def add(self, number: int, line: str) -> None:
        """Check the next line. Void lines and versions that are no entry change nothing.

        Args:
            number: Its version number.
            line: The entry as JSON; empty for a version without an entry.

        Raises:
            TamperedError: A line is missing before it, or it does not fit the lines before.
        """
        if number != self.number + 1:
            raise self.tampered(f"line {self.number + 1} is missing")
        self.number, self.line = number, line
        if not line:
            return
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            if _may_be_newer(line):
                raise SegopsError(
                    f"{self.where}: line {number} was written by another version of segops, which "
                    "this one cannot read. Update this checkout."
                ) from None
            raise self.tampered(f"line {number} is not an entry") from None
        if entry.previous != self.head:
            # A writer that lost a race names an entry that was the last a moment before.
            if entry.previous in self.known:
                return
            raise self.tampered(f"line {number} does not fit the lines before it")
        if entry.sequence != len(self.entries) + 1:
            raise self.tampered(f"line {number} has the sequence number {entry.sequence}")
        self.head = files.sha256_bytes(line.encode())
        self.known.add(self.head)
        self.entries.append(entry)

    def tampered(self, what: str) -> TamperedError:
        """Return the error for a ledger that was changed by other means."""
        return TamperedError(
            f"{self.where}: {what}: the ledger was changed by other means than segops. "
            "`segops ledger verify` looks at all of it. Restore the registry from a backup; the "
            "artifacts `decisions/` of the runs hold the lines, and so does the copy in "
            f"{paths.LEDGER}/ of each checkout. If the registry was replaced on purpose, "
            "remove that copy."
        )


def _may_be_newer(line: str) -> bool:
    """Whether a line has the place of an entry in its chain, and a kind or fields unknown here."""
    try:
        tree = json.loads(line)
    except ValueError:
        return False
    return isinstance(tree, dict) and {"sequence", "previous", "nonce"} <= tree.keys()


def to_line(entry: Entry) -> bytes:
    """Return an entry as a line of the ledger, without the line end."""
    tree = entry.model_dump(mode="json")
    return json.dumps(tree, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(
        errors="replace"
    )


def finite(value: Any) -> Any:
    """Return `value` ready for JSON: NaN and infinities become None, tuples become lists."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
