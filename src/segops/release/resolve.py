"""Resolves a reference to a model to the directory of its bundle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segops import files
from segops.params.file import load_params
from segops.predict.bundle import TORCH, read_model, runtime_of
from segops.runtime import opener
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.record.tracking import Store
    from segops.release.versions import Version

URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@contextmanager
def resolved(model: str | None, root: Path, runtime: str = TORCH) -> Iterator[Path]:
    """Yield a model's bundle or an export of it; the digest of a registered one is checked first.

    Args:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a bundle's directory, or None for
            the champion of the workspace's model.
        root: The workspace.
        runtime: `torch`, or the form of an export, such as `onnx`. Of a registered model it is one
            that the gate's decision offers; a directory must be of this runtime itself.

    Raises:
        SegopsError: There is no such model or offered export, or its artifact was changed.
        TransientError: MLflow does not answer.
    """
    with resolved_version(model, root, runtime) as (bundle, _):
        yield bundle


@contextmanager
def resolved_version(
    model: str | None, root: Path, runtime: str = TORCH
) -> Iterator[tuple[Path, Version | None]]:
    """As :func:`resolved`, with the version; None of a bundle's directory."""
    if model is not None and not model.startswith("models:"):
        if not (Path(model) / opener.MODEL).is_file():
            raise SegopsError(
                f"{model}: no bundle there (it lacks model.json). Expected a bundle's directory, "
                "models:/NAME@ALIAS or models:/NAME/VERSION."
            )
        own = runtime_of(read_model(Path(model)))
        if runtime not in (TORCH, own) and runtime.partition("-")[0] != own:
            raise SegopsError(
                f"{model}: is of runtime {own}, not {runtime}. `segops export {model}` makes an "
                "export."
            )
        yield Path(model), None
        return
    from segops.record import exports as kept
    from segops.record.artifact import checked_bundle  # these import MLflow, which takes seconds
    from segops.record.tracking import session
    from segops.release import versions
    from segops.release.exports import require_offered

    settings = load_params(root).registry
    uri = model or f"models:/{settings.model}@{versions.CHAMPION}"
    parsed(uri)  # before MLflow is asked
    with files.scratch() as scratch:
        with session(root, settings, create=False) as store:
            name, version = find_version(store, uri)
            if runtime == TORCH:
                bundle = checked_bundle(store, name, version.number, version.bundle_digest, scratch)
            else:
                exports = decided_on(store, root, name, version)
                digest = require_offered(exports, runtime, f"{name} version {version.number}")
                bundle = kept.fetch(store, version.run_id, digest, scratch)
        yield bundle, version


def decided_exports(model: str, root: Path) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """Return the permanent URI of a registered model, and what its decision says of its exports.

    Args:
        model: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        root: The workspace.

    Returns:
        The URI with the version's number, and what :func:`decided_on` says.

    Raises:
        SegopsError: There is no such model, or the ledger was tampered with.
        TransientError: MLflow does not answer.
    """
    from segops.record.tracking import session

    parsed(model)  # before MLflow is asked
    with session(root, load_params(root).registry, create=False) as store:
        name, version = find_version(store, model)
        return f"models:/{name}/{version.number}", decided_on(store, root, name, version)


def decided_on(
    store: Store, root: Path, name: str, version: Version
) -> Mapping[str, Mapping[str, Any]]:
    """What the decision on a version says of its exports, by the name of their form.

    Args:
        store: The record.
        root: The workspace.
        name: The registered model's.
        version: The version.

    Returns:
        As :func:`segops.release.exports.decided`; empty where nothing was decided.

    Raises:
        SegopsError: The ledger was tampered with.
    """
    from segops.release.exports import EXPORTS
    from segops.release.ledger import Ledger
    from segops.release.releases import deciding

    decision = deciding(Ledger(store, root, name).entries(), version.number)
    return {} if decision is None else decision.details.get(EXPORTS) or {}


def parsed(uri: str) -> re.Match[str]:
    """Return the groups `name`, and `alias` or `version`, of a registered model's URI.

    Raises:
        SegopsError: It is no such URI.
    """
    parts = URI.fullmatch(uri)
    if parts is None:
        raise SegopsError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION.")
    return parts


def find_version(store: Store, uri: str) -> tuple[str, Version]:
    """Return the registered model's name and the version that a URI names.

    Args:
        store: The record.
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises:
        SegopsError: It is neither of the two, or there is no such alias or version.
        MlflowException: The registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    from segops.record.tracking import is_missing
    from segops.release import versions

    parts = parsed(uri)
    name, number = parts["name"], parts["version"]
    if number is None:
        aliases = versions.aliases(store, name)
        if parts["alias"] not in aliases:
            known = ", ".join(aliases) or "none"
            raise SegopsError(
                f"{uri}: {name} has no such alias (it has: {known}). "
                "`segops run` makes a champion; `segops status` lists the aliases."
            )
        number = aliases[parts["alias"]]
    try:
        return name, versions.get(store, name, number)
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise SegopsError(
            f"{uri}: {name} has no version {number}. `segops ledger history` lists all versions."
        ) from None


def numbered(store: Store, model: str, wanted: str) -> Version:
    """Return the version of a model that a number or an alias names.

    Raises:
        SegopsError: There is no such version.
        MlflowException: The registry does not answer.
    """
    separator = "/" if wanted.isdigit() else "@"
    return find_version(store, f"models:/{model}{separator}{wanted}")[1]
