"""What the ledger tells: who was champion, what was withdrawn, which release was the best."""

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
    """The life of one registered model.

    Attributes:
        champions: Versions that were champion, oldest first, those withdrawn left out.
        withdrawn: Version -> why it was withdrawn.
        best: The releases none of which is known to be worse than another: mostly one. On every
            promotion the new release was compared with the champion and with these.
        pending: Aliases that were about to be changed when a process ended.
    """

    champions: tuple[str, ...]
    withdrawn: dict[str, str]
    best: tuple[Release, ...]
    pending: Entry | None

    @property
    def champion(self) -> str | None:
        """The champion by the ledger, or None."""
        return self.champions[-1] if self.champions else None

    def before(self, version: str) -> str | None:
        """The release before a version's last, or None where the ledger knows none."""
        if version not in self.champions:
            others = self.champions
        else:
            last = len(self.champions) - 1 - self.champions[::-1].index(version)
            others = self.champions[:last]
        return next((one for one in reversed(others) if one != version), None)


def read(entries: Iterable[Entry]) -> Releases:
    """Tell the history from the lines about one model, oldest first."""
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
    """The best releases after a new one: those it is not at least as good as, and maybe itself.

    Args:
        best: The best so far.
        new: The new release.
        differences: Digest of an earlier release -> mIoU of the new one minus its, on the same
            images.
    """
    kept = [
        one
        for one in best
        if one.bundle_digest != new.bundle_digest
        and not differences.get(one.bundle_digest, -1) >= 0
    ]
    beaten = any(differences.get(one.bundle_digest, 0) < 0 for one in kept)
    return kept if beaten else [*kept, new]
