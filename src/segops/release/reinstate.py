"""Undoes withdrawals; the gate then decides on the version as on any challenger."""

from __future__ import annotations

from pathlib import Path

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.record.lineage import started_by
from segops.record.tracking import is_missing
from segops.release import versions
from segops.release.changes import Registry, changing, publish
from segops.release.versions import CHALLENGER, CHAMPION, WITHDRAWN, Version
from segops.runtime.errors import SegopsError


def reinstate(root: Path, number: str, reason: str) -> bool:
    """Undo the withdrawal of a version, and make it challenger. The gate must pass it anew.

    A call that a crash interrupted can be repeated.

    Args:
        root: The workspace.
        number: The version.
        reason: Why the withdrawal no longer holds; written into the ledger.

    Returns:
        Whether the workspace holds this version's bundle, so that the gate can decide on it here.

    Raises:
        TransientError: MLflow does not answer, or another process changes the registry.
        MovedError: Another process changed the registry meanwhile.
        SegopsError: No reason is given, there is no such version, it is champion, or it was not
            withdrawn.
    """
    if not reason.strip():
        raise SegopsError(
            "A reinstatement needs a reason: segops reinstate VERSION --reason 'WHY'."
        )
    with changing(root) as registry:
        past = registry.history()
        version = existing(registry, number)
        if registry.aliases().get(CHAMPION) == number:
            raise SegopsError(
                f"{registry.model} version {number} has the alias champion: there is nothing to "
                "reinstate. `segops status` shows whether the ledger agrees."
            )
        if number not in past.withdrawn and version.withdrawn is None:
            raise SegopsError(
                f"{registry.model} version {number} was not withdrawn (withdrawn: "
                f"{', '.join(past.withdrawn) or 'none'}). `segops promote` decides on the "
                "workspace's model."
            )
        registry.ledger.append(
            "reinstated",
            verdict="reinstate",
            reason=reason.strip(),
            by=started_by(),
            version=number,
            run_id=version.run_id,
            details={"withdrawn": past.withdrawn.get(number, version.withdrawn)},
        )
        versions.delete_tag(registry.store, registry.model, version, WITHDRAWN)
        versions.set_alias(registry.store, registry.model, CHALLENGER, number)
        publish(registry, version.run_id)
        return _held_digest(root) == version.bundle_digest


def existing(registry: Registry, number: str) -> Version:
    """Return a version by its number.

    Raises:
        SegopsError: There is no such version.
        MlflowException: The registry does not answer.
    """
    try:
        return versions.get(registry.store, registry.model, number)
    except MlflowException as error:
        if is_missing(error) or error.error_code == "INVALID_PARAMETER_VALUE":
            raise SegopsError(
                f"{registry.model} has no version {number!r}. `segops status` and MLflow's page "
                "show the versions."
            ) from None
        raise


def _held_digest(root: Path) -> str | None:
    """Return the digest of the workspace's bundle as the stage package wrote it, or None."""
    path = root / paths.PACKAGE
    return files.read_json(path).get("bundle_digest") if path.is_file() else None
