"""Reads champions, withdrawn versions and the best release from the ledger's entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segops.release.ledger import Entry


@dataclass(frozen=True)
class Release:
    """A version that became champion.

    Attributes:
        version: Its number.
        bundle_digest: SHA-256 of its artifact.
    """

    version: str
    bundle_digest: str


@dataclass(frozen=True)
class Releases:
    """The release history of a registered model.

    Attributes:
        champions: Versions that were champion, oldest first, without withdrawn versions.
        withdrawn: Version -> why it was withdrawn.
        best: The best releases, mostly one; several where no comparison shows which is better.
        pending: The intent of an interrupted process, or None.
    """

    champions: tuple[str, ...]
    withdrawn: dict[str, str]
    best: tuple[Release, ...]
    pending: Entry | None

    @property
    def champion(self) -> str | None:
        """The champion according to the ledger, or None."""
        return self.champions[-1] if self.champions else None

    def before(self, version: str) -> str | None:
        """Return the champion before a version last became champion, or None."""
        if version not in self.champions:
            others = self.champions
        else:
            last = len(self.champions) - 1 - self.champions[::-1].index(version)
            others = self.champions[:last]
        return next((other for other in reversed(others) if other != version), None)


def read(entries: Iterable[Entry]) -> Releases:
    """Read the release history from the entries about one model, oldest first."""
    entries = list(entries)
    ended = {
        entry.details["intent"]: entry.kind
        for entry in entries
        if entry.kind in ("done", "abandoned")
    }
    intents = [entry for entry in entries if entry.kind == "intent"]
    pending = [entry for entry in intents if entry.sequence not in ended]
    withdrawn = {
        entry.version: entry.reason
        for entry in intents
        if entry.verdict == "rollback" and ended.get(entry.sequence) == "done"
    }
    champions: list[str] = []
    best: list[Release] = []
    for entry in entries:
        observed = entry.kind == "observed"
        promoted = (
            entry.kind == "intent"
            and entry.verdict == "promote"
            and ended.get(entry.sequence) == "done"
        )
        if not (observed or promoted) or entry.version in withdrawn:
            continue
        champions.append(entry.version)
        new = Release(entry.version, str(entry.details["bundle_digest"]))
        best = _best(best, new, entry.details.get("differences", {}))
    return Releases(tuple(champions), withdrawn, tuple(best), pending[-1] if pending else None)


def _best(best: list[Release], new: Release, differences: dict[str, float]) -> list[Release]:
    """Return the best releases after a new release.

    A release stays if the new one is worse than it or was not compared with it. The new release is
    added unless it is worse than one that stays.

    Args:
        best: The best releases so far.
        new: The new release.
        differences: Digest of an earlier release -> mIoU of the new release minus that of the
            earlier, on the same images.
    """
    kept = [
        release
        for release in best
        if release.bundle_digest != new.bundle_digest
        and not differences.get(release.bundle_digest, -1) >= 0
    ]
    is_worse = any(differences.get(release.bundle_digest, 0) < 0 for release in kept)
    return kept if is_worse else [*kept, new]
