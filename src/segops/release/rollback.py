"""Takes champions back: rolls back, and adopts a champion that segops did not set."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow.exceptions import MlflowException

from segops import files
from segops.record import artifact
from segops.record.lineage import started_by
from segops.record.tracking import is_missing, public_line
from segops.release import fresh, releases, versions
from segops.release.changes import Registry, change, changing, is_gone, looking
from segops.release.ledger import MovedError
from segops.release.releases import Releases
from segops.release.versions import CHAMPION, PREVIOUS, Version
from segops.runtime.errors import SegopsError, TransientError

log = logging.getLogger("segops")


@dataclass(frozen=True)
class RolledBack:
    """What :func:`rollback` did, or would do.

    Attributes:
        withdrawn: The version that was champion; None where only a lost alias was restored.
        champion: The version that is champion again; None where there is no other release.
        previous: The version that a further rollback would restore, or None.
        completed: Whether an earlier rollback, which was interrupted, was completed instead.
    """

    withdrawn: str | None
    champion: str | None
    previous: str | None
    completed: bool = False


def rollback(
    root: Path,
    reason: str,
    *,
    to: str | None = None,
    champion: str | None = None,
    dry_run: bool = False,
) -> RolledBack:
    """Withdraw the champion and make an earlier champion champion again.

    The release before that, by the ledger, becomes `previous`. Neither a rollback nor the gate ever
    restores a withdrawn version. Before anything changes, the version to restore is fetched, its
    digest is checked, and it predicts an image. An interrupted rollback is completed, and none
    is added.

    Where no version has the alias, the ledger's champion gets it again and nothing is withdrawn. If
    that version is not usable, it is withdrawn and the newest usable release becomes champion, if
    there is one.

    Args:
        root: The workspace.
        reason: Why; written into the ledger and into a tag of the withdrawn version.
        to: The version to restore; None: the release before the champion.
        champion: The version that the caller wants to withdraw; None: the champion that this
            checkout saw last.
        dry_run: Whether to check everything and change nothing.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        MovedError: Another process changed the registry meanwhile.
        SegopsError: No reason is given, another version is champion, or the version to restore does
            not exist, was withdrawn, was changed, or does not predict.
    """
    if not reason.strip():
        raise SegopsError("A rollback needs a reason: segops rollback --reason 'WHY'.")
    with (looking if dry_run else changing)(root) as registry:
        seen = releases.read(registry.seen)
        past, now = registry.history(), registry.aliases()
        if past.pending is not None:
            raise SegopsError(
                f"{registry.model}: {past.pending.by} began the {past.pending.verdict} of version "
                f"{past.pending.version}, which comes first. Without --dry-run it is completed."
            )
        if completed := _completed(seen, past, now):
            return completed
        # Without the alias, as after its version was deleted, the ledger knows the champion.
        current = now.get(CHAMPION) or past.champion
        if current is None:
            raise SegopsError(
                f"{registry.model} has no champion: there is nothing to roll back. "
                "`segops promote` makes one."
            )
        _require_seen(registry, current, champion, seen.observed or seen.champion)
        if CHAMPION in now or champion is not None or to not in (None, current):
            back: str | None = _target(registry, past, current, to)
            _require_release(registry, past, str(back))
        else:
            back = usable(registry, past)
        older = None if back is None else next(earlier(registry, past, current, back), None)
        is_restored = back == current
        if not dry_run:
            run_id = ""
            if not is_gone(registry, current):
                run_id = versions.get(registry.store, registry.model, current).run_id
            after = {PREVIOUS: older, CHAMPION: back}
            verdict: Literal["restore", "rollback"] = "restore" if is_restored else "rollback"
            change(registry, verdict, current, run_id, reason.strip(), now, after)
        return RolledBack(None if is_restored else current, back, older)


def adopt(root: Path, number: str, reason: str) -> None:
    """Take in a champion that segops did not set, as a release.

    Args:
        root: The workspace.
        number: The version, which has the alias `champion`.
        reason: Why it is trusted; written into the ledger.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        MovedError: Another process changed the registry meanwhile.
        SegopsError: No reason is given, the version is not champion, was withdrawn, has another
            digest than at its registration, or does not predict.
    """
    if not reason.strip():
        raise SegopsError("An adoption needs a reason: segops adopt VERSION --reason 'WHY'.")
    with changing(root) as registry:
        past, champion = registry.history(), registry.aliases().get(CHAMPION)
        if number == past.champion == champion:
            raise SegopsError(f"{registry.model} version {number} is a release already.")
        if number != champion:
            raise SegopsError(
                f"{registry.model}: version {champion or '(none)'} has the alias champion, not "
                f"{number}. Only a champion can be adopted; `segops status` shows it."
            )
        if number in past.withdrawn:
            raise SegopsError(
                f"{registry.model} version {number} was withdrawn: {past.withdrawn[number]} "
                "`segops rollback` makes the last release champion again."
            )
        version = versions.get(registry.store, registry.model, number)
        require_usable(registry, version, version.bundle_digest)
        if registry.aliases().get(CHAMPION) != number:
            raise MovedError(f"{registry.model}: another version became champion meanwhile.")
        registry.ledger.append(
            "adopted",
            verdict="adopt",
            reason=reason.strip(),
            by=started_by(),
            version=number,
            run_id=version.run_id,
            details={"bundle_digest": version.bundle_digest},
        )


def require_usable(registry: Registry, version: Version, digest: str) -> None:
    """Fetch a version's bundle, check its digest, and let it predict an image in a fresh process.

    Args:
        registry: The registry.
        version: The version.
        digest: The SHA-256 that its bundle must have.

    Raises:
        ArtifactError: Its artifact is gone, or was changed.
        NotUsableError: It does not predict.
        TransientError: It could not be fetched or tried.
    """
    with files.scratch() as scratch:
        try:
            bundle = artifact.checked_bundle(
                registry.store, registry.model, version.number, digest, scratch
            )
        except MlflowException as error:
            raise TransientError(
                f"{registry.model} version {version.number} cannot be fetched now: "
                f"{public_line(error)}. Try again."
            ) from error
        try:
            fresh.predict(registry.root, str(bundle), digest, device="cpu")
        except fresh.NotUsableError as error:
            raise fresh.NotUsableError(
                f"{registry.model} version {version.number} does not predict: {error} "
                "Choose another version."
            ) from error


def usable(registry: Registry, past: Releases, *without: str) -> str | None:
    """Return the newest release that exists and is usable, without those named, or None.

    Raises:
        TransientError: One could not be fetched or tried.
    """
    for number in earlier(registry, past, *without):
        try:
            _require_release(registry, past, number)
        except (artifact.ArtifactError, fresh.NotUsableError) as error:
            log.warning("%s", error)
        else:
            return number
    return None


def _require_release(registry: Registry, past: Releases, number: str) -> None:
    version = versions.get(registry.store, registry.model, number)
    require_usable(registry, version, past.digests.get(number, version.bundle_digest))


def earlier(registry: Registry, past: Releases, *without: str) -> Iterator[str]:
    """Yield the releases that exist, the newest first, without those named."""
    for other in dict.fromkeys(reversed(past.champions)):
        if other not in without and not is_gone(registry, other):
            yield other


def _require_seen(registry: Registry, current: str, wanted: str | None, seen: str | None) -> None:
    """Require that the caller knows which version it withdraws."""
    if wanted is not None and wanted != current:
        raise SegopsError(
            f"{registry.model}: version {current} is champion, not {wanted}. `segops status` "
            "shows the versions."
        )
    if wanted is None and seen is not None and seen != current:
        raise SegopsError(
            f"{registry.model}: version {current} became champion since this checkout last looked; "
            f"it was {seen}. Look at `segops status`; `segops rollback --champion {current}` "
            "withdraws it nevertheless."
        )


def _completed(seen: Releases, past: Releases, now: Mapping[str, str]) -> RolledBack | None:
    """Return the rollback that was pending when this checkout last looked, if it still stands."""
    pending = seen.pending
    if pending is None or pending.verdict not in ("rollback", "restore"):
        return None
    is_rollback, after = pending.verdict == "rollback", pending.details["after"]
    is_undone = is_rollback and pending.version not in past.withdrawn
    if is_undone or now.get(CHAMPION) != after[CHAMPION]:
        return None
    withdrawn = pending.version if is_rollback else None
    return RolledBack(withdrawn, after[CHAMPION], after[PREVIOUS], completed=True)


def _target(registry: Registry, past: Releases, current: str, to: str | None) -> str:
    """Return the version to restore."""
    if to is not None:
        if to == current:
            raise SegopsError(f"{registry.model}: version {to} is champion already.")
        if to in past.withdrawn:
            raise SegopsError(
                f"{registry.model} version {to} was withdrawn: {past.withdrawn[to]} Choose "
                f"another version, or `segops reinstate {to} --reason WHY`."
            )
        if to not in past.champions:
            known = ", ".join(dict.fromkeys(past.champions)) or "none"
            raise SegopsError(
                f"{registry.model}: version {to} was never champion (these were: {known}). A "
                "rollback restores a release; the gate decides on other versions."
            )
        return _existing(registry, to)
    back = past.champion if current != past.champion else past.before(current)
    if back is None:
        raise SegopsError(
            f"{registry.model}: version {current} is the only release; there is no previous "
            "version to restore. `segops run` trains a model that may replace it."
        )
    return _existing(registry, back)


def _existing(registry: Registry, number: str) -> str:
    try:
        versions.get(registry.store, registry.model, number)
    except MlflowException as error:
        if is_missing(error):
            raise SegopsError(
                f"{registry.model} version {number} is gone from the registry. Restore it from a "
                "backup, or choose another version with --to."
            ) from None
        raise
    return number
