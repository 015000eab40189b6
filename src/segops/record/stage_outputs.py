"""Reads the outputs of the stages in a workspace and checks that they belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segops import files, paths
from segops.metrics.catalogue import recorded
from segops.predict.bundle import TORCH, read_bundle, weights_sha256
from segops.runtime.errors import SegopsError

EVALUATED = (
    paths.EVALUATION,
    paths.COUNTS,
    paths.KEPT_MASKS,
    paths.CONFUSION_PLOT,
    paths.CLASS_PLOT,
    paths.EVALUATION_PAGE,
    paths.IMAGE_TABLE,
    paths.EXPORT_PARITY,
)
"""Files that belong to an evaluation."""
TRAINED = (
    paths.TRAINING,
    paths.LEARNING_CURVES,
    paths.POLICY,
    paths.AUGMENTATION_SHEET,
    paths.VERDICT,
    paths.VALIDATION_JSON,
    paths.VALIDATION_PAGE,
)
"""Files that belong to a training and its data."""
EVALUATION_NUMBERS = {"miou_low": "miou_low", "miou_high": "miou_high", "val_images": "images"}
"""Name in MLflow -> key in the evaluation; beside the metrics of the catalogue."""
TRAINING_NUMBERS = {
    "epochs_run": "epochs_run",
    "best_epoch": "best_epoch",
    "final_train_loss": "final_train_loss",
    "optimizer_steps": "optimizer_steps",
    "images_per_second": "images_per_second",
    "best_selection_miou": "selection_miou",
}
"""Name in MLflow -> key in ``metrics/training.json``."""


EXPORT_NUMBERS = (
    "miou",
    "miou_difference",
    "boundary_iou",
    "worst_class_difference",
    "differing_pixels",
    "mib",
    "milliseconds_p50",
    "milliseconds_p95",
    "peak_mib",
)
"""Keys of the parity of an export that MLflow shows as `export_FORM_KEY`."""


@dataclass(frozen=True)
class Results:
    """The outputs of the stages.

    Attributes:
        evaluation: ``metrics/evaluation.json`` where it describes this bundle, else None.
        weights_sha256: Computed from the bundle, as is `bundle_digest`.
        exports: By the name of its form, the parity of each export of this bundle.
    """

    root: Path
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    weights_sha256: str
    bundle_digest: str
    exports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """The bundle's directory."""
        return self.root / paths.SEGMENTER

    def artifacts(self) -> Iterator[Path]:
        """Return the files to store in the run, relative to the workspace."""
        names = TRAINED if self.evaluation is None else (*TRAINED, *EVALUATED)
        return (name for name in names if (self.root / name).is_file())

    def metrics(self) -> dict[str, float]:
        """Return final metrics by their name in MLflow; NaN for a class that is not in val."""
        numbers = {name: self.training.get(key) for name, key in TRAINING_NUMBERS.items()}
        found = {name: float(value) for name, value in numbers.items() if value is not None}
        if self.evaluation is None:
            return found
        found |= recorded(self.evaluation)
        found |= {
            f"export_{name}_{key}": float(figures[key])
            for name, figures in self.exports.items()
            for key in EXPORT_NUMBERS
            if figures.get(key) is not None
        }
        for name, key in EVALUATION_NUMBERS.items():
            value = self.evaluation.get(key)
            found[name] = math.nan if value is None else float(value)
        return found


def read(root: Path) -> Results:
    """Read the outputs of the stages train, package and evaluate.

    An evaluation of another bundle, such as one from before the last training, is ignored.

    Raises:
        SegopsError: There is no trained model, or it is not the model that the stages wrote.
    """
    bundle = root / paths.SEGMENTER
    if not bundle.is_dir():
        raise SegopsError(f"{bundle}: no trained model here. `segops run` trains one.")
    training = files.read_json(root / paths.TRAINING)
    package = files.read_json(root / paths.PACKAGE)
    held = read_bundle(bundle)
    digest, weights = held.digest, weights_sha256(held)
    for path, written, name, actual in (
        (paths.TRAINING, training, "weights_sha256", weights),
        (paths.PACKAGE, package, "bundle_digest", digest),
    ):
        if written.get(name) != actual:
            raise SegopsError(
                f"{bundle}: its {name} is {actual[:12]}, {path} says "
                f"{str(written.get(name))[:12]}. `dvc repro` brings both together."
            )
    evaluation = None
    if (root / paths.EVALUATION).is_file():
        evaluation = files.read_json(root / paths.EVALUATION)
        if evaluation.get("bundle_digest") != digest:
            evaluation = None
    exports = {} if evaluation is None else exports_of(root, digest)
    return Results(root, training, evaluation, weights, digest, exports)


def exports_of(root: Path, digest: str) -> dict[str, dict[str, Any]]:
    """The parity of the exports of a bundle, by the name of their form.

    Empty where ``metrics/exports.json`` is of another bundle, or of a run without exports.
    """
    path = root / paths.EXPORT_PARITY
    parity = files.read_json(path) if path.is_file() else {}
    if parity.get(TORCH, {}).get("bundle_digest") != digest:
        return {}
    return {name: figures for name, figures in parity.items() if name != TORCH}
