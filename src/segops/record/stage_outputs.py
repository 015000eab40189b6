"""Reads the outputs of the stages in a workspace and checks that they belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segops import files, paths
from segops.metrics.catalogue import SPLIT_METRICS, recorded
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


EXPORT_NUMBERS = {
    "miou": "miou",
    "miou_difference": "miou_difference",
    "miou_difference_low": "miou_low",
    "miou_difference_high": "miou_high",
    "boundary_iou": "boundary_iou",
    "worst_class_difference": "worst_class_difference",
    "differing_pixels": "differing_pixels",
    "mib": "mib",
    "milliseconds_p50": "milliseconds_p50",
    "milliseconds_p95": "milliseconds_p95",
    "peak_mib": "peak_mib",
}
"""Name in MLflow, `export_FORM_NAME` -> key of the parity; the model's form is `torch`."""


@dataclass(frozen=True)
class Results:
    """The outputs of the stages.

    Attributes:
        evaluation: ``metrics/evaluation.json`` where it describes this bundle, else None.
        weights_sha256: Computed from the bundle, as is `bundle_digest`.
        parity: What :func:`parity_of` says of this bundle.
    """

    root: Path
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    weights_sha256: str
    bundle_digest: str
    parity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def exports(self) -> dict[str, Mapping[str, Any]]:
        """By the name of its form, the parity of each export of this bundle."""
        return {name: figures for name, figures in self.parity.items() if name != TORCH}

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
            f"export_{form}_{name}": float(figures[key])
            for form, figures in self.parity.items()
            for name, key in EXPORT_NUMBERS.items()
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
    evaluation = _evaluation_of(root, digest)
    return Results(root, training, evaluation, weights, digest, parity_of(root, digest))


def parity_of(root: Path, digest: str) -> dict[str, dict[str, Any]]:
    """The figures of a bundle, under `torch`, and of its exports, by the name of their form.

    Those of the bundle hold its `miou` and `boundary_iou` too. Empty where the evaluation is of
    another bundle, or of a run without exports.
    """
    path = root / paths.EXPORT_PARITY
    parity = files.read_json(path) if path.is_file() else {}
    evaluation = _evaluation_of(root, digest)
    model = parity.pop(TORCH, {})
    if evaluation is None or model.get("bundle_digest") != digest or not parity:
        return {}
    scored = [metric for metric in SPLIT_METRICS if metric.name in ("miou", "boundary_iou")]
    return {TORCH: {**model, **{one.name: one.read(evaluation) for one in scored}}, **parity}


def _evaluation_of(root: Path, digest: str) -> dict[str, Any] | None:
    """``metrics/evaluation.json`` where it describes a bundle, else None."""
    path = root / paths.EVALUATION
    evaluation: dict[str, Any] = files.read_json(path) if path.is_file() else {}
    return evaluation if evaluation.get("bundle_digest") == digest else None
