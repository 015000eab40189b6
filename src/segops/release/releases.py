"""Reads champions, withdrawn versions and the best release from the ledger's entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from segops.release.chain import Entry
from segops.release.earlier_ledger import TAKEN_OVER
from segops.release.versions import CHAMPION


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
        champions: Versions that were champion, oldest first. What a version was before its last
            withdrawal does not count, also after it was reinstated.
        withdrawn: Version -> why it was withdrawn.
        best: The best releases, mostly one; several where no comparison shows which is better.
        pending: The intent of an interrupted process, or None.
        observed: The version that was last seen as champion without being released, or None.
        digests: Version -> SHA-256 of its artifact when it became champion.
        counts: Digest of an artifact and hash of val -> digests of its counts in the decisions; see
            :func:`segops.release.pairing.digest`.
        gated: Hash of val -> SHA-256 of the artifacts that the gate decided on with scores on it.
        licences: Version -> licence of its pretrained weights at its last decision.
    """

    champions: tuple[str, ...]
    withdrawn: dict[str, str]
    best: tuple[Release, ...]
    pending: Entry | None
    observed: str | None
    digests: Mapping[str, str]
    counts: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    gated: Mapping[str, frozenset[str]] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)

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


def ends(entries: Iterable[Entry]) -> dict[int, Entry]:
    """Return the number of each intent that ended -> the entry that ended it; the first counts."""
    found: dict[int, Entry] = {}
    for entry in entries:
        if entry.kind in ("done", "abandoned"):
            found.setdefault(entry.details["intent"], entry)
    return found


def untested(entries: Sequence[Entry], champion: str | None) -> Entry | None:
    """Return the promotion of the champion that no passed smoke test followed yet, or None.

    Args:
        entries: The entries about one model, oldest first.
        champion: The version with the alias `champion`.
    """
    ended = ends(entries)
    for entry in reversed(entries):
        if (entry.kind, entry.verdict, entry.version) == ("smoke", "passed", champion):
            return None
        done = entry.sequence in ended and ended[entry.sequence].kind == "done"
        if entry.kind == "intent" and done:
            is_due = entry.version == champion and entry.details.get("smoke_due") is True
            return entry if is_due else None
    return None


def last_decision(entries: Sequence[Entry], version: str) -> Entry | None:
    """Return the gate's last decision on a version, or None."""
    decisions = (
        entry
        for entry in reversed(entries)
        if entry.kind == "decision" and entry.version == version
    )
    return next(decisions, None)


def last_test(entries: Sequence[Entry], version: str) -> Entry | None:
    """Return a version's last score on a test split, or None."""
    own = (one for one in reversed(entries) if one.kind == "tested" and one.version == version)
    return next(own, None)


def deciding(entries: Sequence[Entry], version: str) -> Entry | None:
    """Return the decision that made a version champion, else the last one on it, or None."""
    ended = {number: end.kind for number, end in ends(entries).items()}
    decisions = {
        entry.sequence: entry
        for entry in entries
        if entry.kind == "decision" and entry.version == version
    }
    carried_out = [
        decisions[entry.details["decision"]]
        for entry in entries
        if entry.kind == "intent"
        and ended.get(entry.sequence) == "done"
        and entry.version == version
        and entry.details.get("decision") in decisions
    ]
    return carried_out[-1] if carried_out else last_decision(entries, version)


def read(entries: Iterable[Entry]) -> Releases:
    """Read the release history from the entries about one model, oldest first."""
    entries = list(entries)
    gated, licences = _decided(entries)
    ended = {sequence: end.kind for sequence, end in ends(entries).items()}
    intents = [entry for entry in entries if entry.kind == "intent"]
    pending = [entry for entry in intents if entry.sequence not in ended]
    withdrawn: dict[str, str] = {}
    withdrawn_at: dict[str, int] = {}
    for entry in entries:
        if entry.verdict == "rollback" and ended.get(entry.sequence) == "done":
            withdrawn[entry.version] = entry.reason
            withdrawn_at[entry.version] = entry.sequence
        elif entry.kind == "reinstated":
            withdrawn.pop(entry.version, None)
    champions: list[str] = []
    best: dict[str, Release] = {}
    digests: dict[str, str] = {}
    observed: str | None = None
    for entry in entries:
        done = entry.kind == "intent" and ended.get(entry.sequence) == "done"
        # An earlier segops counted a champion that was set by other means as a release.
        taken_in = entry.kind == "adopted" or (
            entry.kind == "observed" and TAKEN_OVER in entry.details
        )
        if entry.kind == "observed" and not taken_in:
            observed = entry.version
        if not (done or taken_in):
            continue
        observed = None
        if entry.verdict == "restore":
            continue  # the champion's alias was lost, and set again
        if entry.verdict == "rollback":
            back = entry.details.get("after", {}).get(CHAMPION)
            is_kept = back in digests and entry.sequence > withdrawn_at.get(back, 0)
            if is_kept and champions[-1:] != [back]:
                champions.append(back)
        elif entry.sequence > withdrawn_at.get(entry.version, 0):
            champions.append(entry.version)
            digests[entry.version] = str(entry.details["bundle_digest"])
            new = Release(entry.version, digests[entry.version])
            _add(best, new, entry.details.get("differences", {}))
    return Releases(
        champions=tuple(champions),
        withdrawn=withdrawn,
        best=tuple(best.values()),
        pending=pending[-1] if pending else None,
        observed=observed,
        digests=digests,
        counts=_counts(entries),
        gated=gated,
        licences=licences,
    )


def _counts(entries: Iterable[Entry]) -> dict[tuple[str, str], frozenset[str]]:
    found: dict[tuple[str, str], frozenset[str]] = {}
    for entry in entries:
        if entry.kind == "decision" and entry.details.get("counts"):
            val_hash = entry.details["evidence"]["score"].get("val_hash", "")
            for bundle, counts in entry.details["counts"].items():
                found[bundle, val_hash] = found.get((bundle, val_hash), frozenset()) | {counts}
    return found


def _decided(entries: Iterable[Entry]) -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """Return :attr:`Releases.gated` and :attr:`Releases.licences`."""
    gated, licences = defaultdict(set), {}
    for entry in entries:
        evidence = entry.details.get("evidence")
        if entry.kind != "decision" or not isinstance(evidence, dict):
            continue
        score, licence = evidence.get("score"), evidence.get("licence")
        digest = entry.details.get("bundle_digest")
        if digest and isinstance(score, dict) and score.get("val_hash"):
            gated[score["val_hash"]].add(digest)
        if isinstance(licence, dict) and licence.get("name"):
            licences[entry.version] = licence["name"]
    return {val_hash: frozenset(digests) for val_hash, digests in gated.items()}, licences


def _add(best: dict[str, Release], new: Release, differences: Mapping[str, float]) -> None:
    """Let the best releases be those after a new release.

    A release stays if the new one is worse than it or was not compared with it. The new release is
    added unless it is worse than one that stays.

    Args:
        best: Digest -> the best releases so far.
        new: The new release.
        differences: Digest of an earlier release -> mIoU of the new release minus that of the
            earlier, on the same images.
    """
    best.pop(new.bundle_digest, None)
    for digest, difference in differences.items():
        if difference >= 0:
            best.pop(digest, None)
    if not any(difference < 0 for digest, difference in differences.items() if digest in best):
        best[new.bundle_digest] = new
