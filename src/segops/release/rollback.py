"""Takes champions back: rolls back, and adopts a champion that segops did not set."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from segops.record import artifact
from segops.record.lineage import started_by
from segops.record.tracking import is_missing
from segops.release import releases, versions
from segops.release.changes import Registry, change, changing
from segops.release.releases import Releases
from segops.release.versions import CHAMPION, PREVIOUS, Version
from segops.runtime.errors import SegopsError

PREDICT = """
import sys
from pathlib import Path
import numpy as np
from segops.predict.bundle import load_bundle
load_bundle(Path(sys.argv[1]), device="cpu").predict_mask(np.zeros((64, 64, 3), np.uint8))
"""


@dataclass(frozen=True)
class RolledBack:
    """What :func:`rollback` did, or would do.

    Attributes:
        withdrawn: The version that was champion.
        champion: The version that is champion again.
        previous: The version that a further rollback would restore, or None.
        completed: Whether an earlier rollback, which was interrupted, was completed instead.
    """

    withdrawn: str
    champion: str
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
    with changing(root) as registry:
        seen = releases.read(registry.seen)
        past, now = registry.history(), registry.aliases()
        if seen.pending is not None and seen.pending.verdict == "rollback":
            after = seen.pending.details["after"]
            if past.withdrawn.get(seen.pending.version) is not None:
                return RolledBack(seen.pending.version, after[CHAMPION], after[PREVIOUS], True)
        current = now.get(CHAMPION)
        if current is None:
            raise SegopsError(
                f"{registry.model} has no champion: there is nothing to roll back. "
                "`segops promote` makes one."
            )
        _require_seen(registry, current, champion, seen.champion)
        back = _target(registry, past, current, now.get(PREVIOUS), to)
        version = versions.get(registry.store, registry.model, back)
        require_usable(registry, version, past.digests.get(back, version.bundle_digest))
        older = past.before(back)
        after = {PREVIOUS: older if older != current else None, CHAMPION: back}
        if not dry_run:
            withdrawn = versions.get(registry.store, registry.model, current)
            change(registry, "rollback", current, withdrawn.run_id, reason.strip(), after)
        return RolledBack(current, back, after[PREVIOUS])


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
        SegopsError: It has another digest, cannot be fetched, or does not predict.
    """
    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        try:
            bundle = artifact.checked_bundle(
                registry.store, registry.model, version.number, digest, Path(scratch)
            )
        except (MlflowException, OSError) as error:
            raise SegopsError(
                f"{registry.model} version {version.number} cannot be fetched: "
                f"{str(error).splitlines()[0]} Restore its files, or choose another version."
            ) from error
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, str(bundle)],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SegopsError(
            f"{registry.model} version {version.number} does not predict: {last} "
            "Choose another version."
        )


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


def _target(
    registry: Registry, past: Releases, current: str, previous: str | None, to: str | None
) -> str:
    """Return the version to restore."""
    if to is not None:
        if to == current:
            raise SegopsError(f"{registry.model}: version {to} is champion already.")
        if to in past.withdrawn:
            raise SegopsError(
                f"{registry.model} version {to} was withdrawn: {past.withdrawn[to]} It never "
                "comes back; choose another version."
            )
        if to not in past.champions:
            known = ", ".join(dict.fromkeys(past.champions)) or "none"
            raise SegopsError(
                f"{registry.model}: version {to} was never champion (these were: {known}). A "
                "rollback restores a release; the gate decides on other versions."
            )
        return _existing(registry, to)
    back = previous
    if back is None or back == current or back not in past.champions:
        back = past.before(current)
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
