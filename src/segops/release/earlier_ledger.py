"""The ledger file of an earlier segops, in the main checkout: its lines move into the registry."""

from __future__ import annotations

import logging
from pathlib import Path

from segops import paths
from segops.record.tracking import without_credentials
from segops.release.chain import Chain, Entry
from segops.release.ledger import Ledger

NAME = "ledger.jsonl"
TAKEN_OVER = "taken_over"
"""Key of an entry's details: SHA-256 of the line that it was in the file."""
log = logging.getLogger("segops")


def take_over(ledger: Ledger) -> int:
    """Write the lines of the file into the registry, once.

    Args:
        ledger: The ledger of a registered model.

    Returns:
        The number of lines taken over by this call.

    Raises:
        TamperedError: The file was tampered with.
    """
    ours = _earlier(ledger)
    held = _taken_over(ledger) if ours else {}
    missing = [pair for pair in ours if pair[1] not in held]
    if not missing:
        return 0
    path = _path(ledger)
    begun = [sha256 for _, sha256 in ours][: len(held)]
    if len(held) != len(ledger.entries()) or list(held) != begun:
        log.warning(
            "%s: %d of its lines are not in the %s, which others began. They count no longer; "
            "move the file away.",
            path, len(missing), ledger.where,
        )  # fmt: skip
        return 0
    numbers = {entry.sequence: held.get(sha256, 0) for entry, sha256 in ours}
    for entry, sha256 in missing:
        details = {**entry.details, TAKEN_OVER: sha256}
        for name in ("intent", "decision"):
            if isinstance(details.get(name), int):
                details[name] = numbers.get(details[name], 0)
        written = ledger.append(
            entry.kind, verdict=entry.verdict, reason=entry.reason, by=entry.by,
            version=entry.version, run_id=entry.run_id, details=details,
        )  # fmt: skip
        numbers[entry.sequence] = written.sequence
    log.info("%s: %d lines were taken over into the %s.", path, len(missing), ledger.where)
    return len(missing)


def not_taken_over(ledger: Ledger) -> list[Entry]:
    """Return the entries of the file that the registry lacks.

    Raises:
        TamperedError: The file was tampered with.
    """
    ours = _earlier(ledger)
    held = _taken_over(ledger) if ours else {}
    return [entry for entry, sha256 in ours if sha256 not in held]


def _path(ledger: Ledger) -> Path:
    return paths.state_home(ledger.root) / NAME


def _earlier(ledger: Ledger) -> list[tuple[Entry, str]]:
    """Return the entries of the file about the ledger's model, each with its SHA-256."""
    path = _path(ledger)
    if not path.is_file():
        return []
    old = Chain(str(path))
    hashes: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        old.add(number, line)
        if len(old.entries) != number:
            raise old.tampered(f"line {number} does not fit the line before it")
        hashes.append(old.head)
    return [
        (entry, sha256)
        for entry, sha256 in zip(old.entries, hashes, strict=True)
        if without_credentials(entry.registry) == ledger.store.identity
        and entry.model == ledger.model
    ]


def _taken_over(ledger: Ledger) -> dict[str, int]:
    """Return the SHA-256 of each line that was taken over -> the number of its entry."""
    return {
        entry.details[TAKEN_OVER]: entry.sequence
        for entry in ledger.entries()
        if TAKEN_OVER in entry.details
    }
