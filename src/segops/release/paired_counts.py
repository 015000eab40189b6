"""Compares two models on the same images by their counts, recorded or scored again."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from segops import files, paths
from segops.evaluate.bootstrap import (
    miou_from_counts,
    paired_difference,
    true_classes,
    without_images,
)
from segops.params.gate import GateParams
from segops.record import artifact
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.record.update import COUNTS
from segops.release.evidence import Comparison
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

if TYPE_CHECKING:
    from segops.data.store import PackedStore

log = logging.getLogger("segops")

OWN_NAME = (
    "A model of other classes needs a registered model of its own: set registry.model in "
    "params.yaml to another name. `segops promote` then decides on the model that is trained."
)
"""What to do when the champion has other classes."""


@dataclass(frozen=True)
class PairedCounts:
    """A model's counts on val.

    Attributes:
        version: The version.
        bundle_digest: SHA-256 of its artifact.
        class_names: Its classes in id order.
        trained_on: SHA-256 of the images of its training.
        counts: One row per image and class; see :mod:`segops.evaluate.bootstrap`.
    """

    version: str
    bundle_digest: str
    class_names: tuple[str, ...]
    trained_on: frozenset[str]
    counts: pd.DataFrame


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


def of_version(
    root: Path,
    store: Store,
    model: str,
    version: Version,
    val_hash: str,
    threads: int | None = None,
) -> PairedCounts:
    """Return the counts of a registered version on this val.

    Recorded counts are used if they are of this artifact on this val. If not, the artifact is
    scored in a separate process outside the checkout; its digest is checked before its code runs.

    Args:
        root: The workspace, whose packed store holds val.
        store: The record.
        model: Name of the registered model.
        version: The version.
        val_hash: Hash of val.
        threads: CPU threads of torch; None: its own choice.

    Raises:
        SegopsError: The artifact was changed after registration, or cannot be scored.
        MlflowException: MLflow does not answer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        bundle = artifact.checked_bundle(
            store, model, version.number, version.bundle_digest, Path(scratch)
        )
        described = files.read_json(bundle / opener.MODEL)
        counts = recorded_counts(store, version, val_hash)
        if counts is None:
            names = tuple(described["class_names"])
            counts = _scored(root, bundle, version, names, val_hash, threads)
    return PairedCounts(
        version.number,
        version.bundle_digest,
        tuple(described["class_names"]),
        frozenset(described["training_images"].values()),
        counts,
    )


def compare(
    challenger: PairedCounts, reference: PairedCounts, val_hash: str, policy: GateParams
) -> Comparison:
    """Compare two models on the images that neither was trained on.

    The mIoU of both is averaged over the classes in the ground truth of these images.

    Args:
        challenger: The challenger.
        reference: The released version.
        val_hash: Hash of the val that both were scored on.
        policy: Level, resamples and seed of the paired bootstrap.

    Raises:
        SegopsError: Their classes differ, or they were not scored on the same images and masks.
    """
    _require_same_classes(reference.version, reference.class_names, challenger.class_names)
    trained_on = challenger.trained_on | reference.trained_on
    new, old = (without_images(model.counts, trained_on) for model in (challenger, reference))
    classes = true_classes(new)
    paired = paired_difference(
        new, old, classes, policy.bootstrap_samples, policy.confidence, policy.seed
    )
    return Comparison(
        version=reference.version,
        bundle_digest=reference.bundle_digest,
        val_hash=val_hash,
        images=paired.images,
        excluded=challenger.counts["image_id"].nunique() - new["image_id"].nunique(),
        classes=tuple(challenger.class_names[label] for label in classes),
        challenger_miou=miou_from_counts(new, classes),
        reference_miou=miou_from_counts(old, classes),
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        minimum_detectable=paired.minimum_detectable,
    )


def recorded_counts(store: Store, version: Version, val_hash: str) -> pd.DataFrame | None:
    """Return the counts in the version's run if they are of this artifact on this val, else None.

    Args:
        store: The record.
        version: The version.
        val_hash: Hash of val.

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
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(store.client.download_artifacts(version.run_id, path, scratch))
        if files.sha256_file(local) != tags[COUNTS]:
            log.warning(
                "Version %s: the counts in its run were altered; it is scored again.",
                version.number,
            )
            return None
        return pd.read_parquet(local)


def kept_counts(root: Path, bundle_digest: str, val_hash: str) -> Path:
    """Return the file for the counts of an artifact that the gate scored on this val."""
    return root / paths.JUDGED / f"{bundle_digest}-{val_hash}.parquet"


def _require_same_classes(version: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    if theirs != ours:
        raise SegopsError(
            f"version {version} has the classes {', '.join(theirs)}, the challenger "
            f"{', '.join(ours)}. {OWN_NAME}"
        )


def _scored(
    root: Path,
    bundle: Path,
    version: Version,
    class_names: tuple[str, ...],
    val_hash: str,
    threads: int | None,
) -> pd.DataFrame:
    """Score an artifact on val, or read its kept counts."""
    from segops.evaluate.score import score

    kept = kept_counts(root, version.bundle_digest, val_hash)
    if kept.is_file():
        return pd.read_parquet(kept)
    packed = open_store(root, val_hash)
    _require_same_classes(version.number, class_names, packed.class_names)
    log.info("Version %s: no record of its counts on this val; scoring it now.", version.number)
    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        out = Path(scratch) / "scores"
        scores = score(
            bundle, packed, VAL, out, version.bundle_digest, threads=threads, details=False
        )
    with files.atomic_path(kept) as temporary:
        scores.counts.to_parquet(temporary, index=False)
    return scores.counts
