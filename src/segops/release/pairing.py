"""Two models on the same images: their per-image counts, and what the gate computes from them.

This module needs no MLflow: a statement is verified with it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import pandas as pd

from segops import files
from segops.evaluate.bootstrap import (
    COLUMNS,
    miou_from_counts,
    paired_difference,
    true_classes,
    without_images,
)
from segops.params.gate import GateParams
from segops.release.evidence import Comparison
from segops.runtime.errors import SegopsError

OWN_NAME = (
    "A model of other classes needs a registered model of its own: set registry.model in "
    "params.yaml to another name. `segops promote` then decides on the model that is trained."
)
"""What to do when the champion has other classes."""
TYPES: dict[str, Any] = dict(zip(COLUMNS, (str, str, *["int64"] * 4), strict=True))


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


@dataclass(frozen=True)
class Unseen:
    """A model's figures on the images that it was not trained on.

    Attributes:
        miou: Within 0 to 1; NaN without a labelled pixel.
        class_iou: IoU by class name, None for a class that val does not hold.
        images: Images counted.
        seen_images: Images left out.
    """

    miou: float
    class_iou: dict[str, float | None]
    images: int
    seen_images: int


def to_bytes(counts: pd.DataFrame) -> bytes:
    """Return counts in their canonical form: CSV in UTF-8, sorted by image and class.

    The text is quoted and the numbers are whole; no library's version changes a byte.

    Raises:
        KeyError: A column of :data:`segops.evaluate.bootstrap.COLUMNS` is missing.
    """
    table = counts[list(COLUMNS)].astype(TYPES).sort_values(["image_id", "class_id"])
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(zip(*(table[name].tolist() for name in COLUMNS), strict=True))
    return text.getvalue().encode()


def from_bytes(content: bytes) -> pd.DataFrame:
    """Return the counts of a canonical form.

    Raises:
        ValueError: It is not what :func:`to_bytes` writes.
    """
    try:
        counts = pd.read_csv(io.BytesIO(content), dtype=TYPES, na_filter=False)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if list(counts.columns) != list(COLUMNS) or to_bytes(counts) != content:
        raise ValueError("not the canonical form of counts")
    return counts


def digest(counts: pd.DataFrame) -> str:
    """Return the SHA-256 of the canonical form of counts, in hexadecimal."""
    return files.sha256_bytes(to_bytes(counts))


def unseen(paired: PairedCounts) -> Unseen:
    """Return a model's figures on the images that it was not trained on."""
    kept = without_images(paired.counts, paired.trained_on)
    classes = true_classes(kept)
    iou: dict[str, float | None] = dict.fromkeys(paired.class_names)
    iou |= {paired.class_names[label]: miou_from_counts(kept, (label,)) for label in classes}
    images = int(kept["image_id"].nunique())
    return Unseen(
        miou=miou_from_counts(kept, classes),
        class_iou=iou,
        images=images,
        seen_images=int(paired.counts["image_id"].nunique()) - images,
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
    require_same_classes(reference.version, reference.class_names, challenger.class_names)
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


def require_same_classes(version: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    """Raise a SegopsError where a version's classes are not the challenger's."""
    if theirs != ours:
        raise SegopsError(
            f"version {version} has the classes {', '.join(theirs)}, the challenger "
            f"{', '.join(ours)}. {OWN_NAME}"
        )
