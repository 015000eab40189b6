"""The counts of registered versions: recorded, kept, or scored again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from segops import files, paths
from segops.predict.seen import PIXELS, of_store, seen_images
from segops.record import artifact
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.record.update import COUNTS
from segops.release import pairing
from segops.release.pairing import PairedCounts
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

if TYPE_CHECKING:
    from segops.data.store import PackedStore

log = logging.getLogger("segops")


def open_store(root: Path, val_hash: str) -> PackedStore:
    """Open the workspace's packed store and check that it holds this val.

    Raises:
        SegopsError: It holds other data.
    """
    from segops.data.store import PackedStore

    packed = PackedStore(root / paths.PACKED)
    if packed.split_hash(VAL) != val_hash:
        raise SegopsError(
            f"{paths.PACKED} holds val {packed.split_hash(VAL)[:12]}, the evaluation is of "
            f"{val_hash[:12]}. `dvc repro` brings both together."
        )
    return packed


def trained_on(root: Path, described: Mapping[str, Any], val_hash: str) -> frozenset[str]:
    """Return the :func:`segops.predict.seen.seen_images` of a model, with those of this val.

    The workspace's packed store tells the pixels of val. Where it holds other data or is missing,
    images count by their files alone, and the log gets a warning. Recorded counts are not asked:
    no digest in the ledger holds more of them than the columns of the counts.

    Args:
        root: The workspace.
        described: Content of the ``model.json`` of the model's bundle.
        val_hash: Hash of val.
    """
    if not described.get(PIXELS):  # a bundle of an earlier segops
        return seen_images(described)
    try:
        packed = open_store(root, val_hash)
    except SegopsError as error:
        log.warning("Images of val are compared with training by their files alone: %s", error)
        return seen_images(described)
    return seen_images(described, of_store(packed, VAL))


def of_version(
    root: Path,
    store: Store,
    model: str,
    version: Version,
    val_hash: str,
    threads: int | None = None,
    known: AbstractSet[str] = frozenset(),
) -> PairedCounts:
    """Return the counts of a registered version on this val.

    Recorded counts are used if they are of this artifact on this val and the ledger names them. If
    not, the artifact is scored in a separate process outside the checkout, once in this workspace;
    its digest is checked before its code runs.

    Args:
        root: The workspace, whose packed store holds val.
        store: The record.
        model: Name of the registered model.
        version: The version.
        val_hash: Hash of val.
        threads: CPU threads of torch; None: its own choice.
        known: Digests of these counts in the ledger's decisions; empty where it holds none.

    Raises:
        SegopsError: The artifact was changed after registration, or cannot be scored.
        MlflowException: MLflow does not answer.
    """
    with files.scratch() as scratch:
        bundle = artifact.checked_bundle(
            store, model, version.number, version.bundle_digest, scratch
        )
        described = files.read_json(bundle / opener.MODEL)
        # Whoever may write to the record may write counts and their digest.
        counts = recorded_counts(store, version, val_hash, known) if known else None
        if counts is None:
            names = tuple(described["class_names"])
            counts = _scored(root, bundle, version, names, val_hash, threads, known)
    return PairedCounts(
        version.number,
        version.bundle_digest,
        tuple(described["class_names"]),
        trained_on(root, described, val_hash),
        counts,
    )


def recorded_counts(
    store: Store, version: Version, val_hash: str, known: AbstractSet[str] = frozenset()
) -> pd.DataFrame | None:
    """Return the counts in the version's run if they are of this artifact on this val, else None.

    Args:
        store: The record.
        version: The version.
        val_hash: Hash of val.
        known: As of :func:`of_version`.

    Raises:
        MlflowException: MLflow does not answer.
    """
    tags = store.client.get_run(version.run_id).data.tags
    if (
        tags.get(tag("val_hash")) != val_hash
        or tags.get(tag("bundle_digest")) != version.bundle_digest
        or COUNTS not in tags
    ):
        return None
    path = paths.COUNTS.as_posix()
    held = store.client.list_artifacts(version.run_id, paths.COUNTS.parent.as_posix())
    if path not in {file.path for file in held}:
        return None
    with files.scratch() as scratch:
        local = Path(store.client.download_artifacts(version.run_id, path, str(scratch)))
        content = local.read_bytes()
        if files.sha256_bytes(content) != tags[COUNTS]:
            log.warning(
                "Version %s: the counts in its run were altered; it is scored again.",
                version.number,
            )
            return None
        counts = pd.read_parquet(BytesIO(content))
        return _named(counts, version, known, "the counts in its run")


def kept_counts(root: Path, bundle_digest: str, val_hash: str) -> Path:
    """Return the file for the counts of an artifact that the gate scored on this val."""
    return root / paths.JUDGED / f"{bundle_digest}-{val_hash}.parquet"


def _named(
    counts: pd.DataFrame, version: Version, known: AbstractSet[str], what: str
) -> pd.DataFrame | None:
    """Return counts that the ledger names, or about which it says nothing, else None."""
    if known and pairing.digest(counts) not in known:
        log.warning(
            "Version %s: %s are not those that the ledger's decisions name; it is scored again.",
            version.number,
            what,
        )
        return None
    return counts


def _scored(
    root: Path,
    bundle: Path,
    version: Version,
    class_names: tuple[str, ...],
    val_hash: str,
    threads: int | None,
    known: AbstractSet[str] = frozenset(),
) -> pd.DataFrame:
    """Score an artifact on val, or read its kept counts."""
    from segops.evaluate.score import score

    kept = kept_counts(root, version.bundle_digest, val_hash)
    if kept.is_file():
        counts = _named(pd.read_parquet(kept), version, known, f"the counts in {kept}")
        if counts is not None:
            return counts
    packed = open_store(root, val_hash)
    pairing.require_same_classes(version.number, class_names, packed.class_names)
    log.info("Version %s: the ledger names no counts on this val; scoring it now.", version.number)
    with files.scratch() as scratch:
        out = scratch / "scores"
        scores = score(
            bundle, packed, VAL, out, version.bundle_digest, threads=threads, details=False
        )
    with files.atomic_path(kept) as temporary:
        scores.counts.to_parquet(temporary, index=False)
    return scores.counts
