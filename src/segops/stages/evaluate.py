"""Stage evaluate: score the trained model on val and say how good it is, and how surely."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from segops import files, params
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.evaluate.bootstrap import interval
from segops.evaluate.pictures import choose, image_scores
from segops.evaluate.score import Scores, score
from segops.metrics.iou import summary
from segops.params import EvaluateParams
from segops.predict import isolate
from segops.report.confusion import occurring, row_shares
from segops.report.evaluation import write_evaluation_page
from segops.report.overlay import Picture

SPLIT = "val"
DECIMALS = 6
log = logging.getLogger("segops")


def run(root: Path) -> None:
    """Write the evaluation, the table of counts, the plots and the page.

    Args:
        root: The workspace.

    Raises:
        SegopsError: The model or the data is not usable, val holds an image that the model was
            trained on, or val has no labelled pixel.
    """
    settings = params.load(root)
    store = PackedStore(root / files.PACKED)
    bundle = root / files.SEGMENTER
    _require_unseen(store, bundle)
    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        scores = score(
            bundle,
            store,
            SPLIT,
            Path(scratch) / "scores",
            threads=settings.hardware.threads,
            masks=settings.report.pictures,
        )
        evaluation = _evaluation(scores, store, settings.evaluate)
        pictures = _pictures(scores, store) if settings.report.pictures else []
    files.write_json(root / files.EVALUATION, evaluation)
    with files.atomic_path(root / files.COUNTS) as temporary:
        scores.counts.to_parquet(temporary, index=False)
    _write_csv(root / files.CONFUSION_PLOT, _confusion_table(scores))
    _write_csv(root / files.CLASS_PLOT, _class_table(evaluation))
    write_evaluation_page(
        root / files.EVALUATION_PAGE,
        evaluation,
        scores.confusion,
        pictures,
        root / files.LEARNING_CURVES,
    )
    log.info("%s", _sentence(evaluation))


def _require_unseen(store: PackedStore, bundle: Path) -> None:
    trained = files.read_json(bundle / isolate.MODEL)["training_images"]
    hashes = set(trained.values())
    seen = [one for one in store.ids(SPLIT) if store.image_sha256(one) in hashes]
    if seen:
        raise SegopsError(
            f"{bundle}: the model was trained on {len(seen)} image(s) of {SPLIT}: "
            f"{', '.join(seen)}. Take them out of one of the two splits and train anew."
        )


def _evaluation(scores: Scores, store: PackedStore, settings: EvaluateParams) -> dict[str, Any]:
    if scores.confusion.sum() == 0:
        raise SegopsError(f"{files.PACKED}: {SPLIT} has no labelled pixel to score on.")
    low, high = interval(
        scores.counts, settings.bootstrap_samples, settings.confidence, settings.seed
    )
    figures = summary(scores.confusion, scores.class_names)
    classes = figures.pop("classes")
    return {
        "split": SPLIT,
        "images": len(scores.images),
        "miou": figures.pop("miou"),
        "miou_low": None if math.isnan(low) else low,
        "miou_high": None if math.isnan(high) else high,
        "confidence": settings.confidence,
        **figures,
        "classes": classes,
        "data_hash": store.data_hash,
        "val_hash": store.split_hash(SPLIT),
        "weights_sha256": scores.weights_sha256,
        "bundle_digest": scores.bundle_digest,
    }


def _pictures(scores: Scores, store: PackedStore) -> list[Picture]:
    by_image = image_scores(scores.counts)
    return [
        Picture(
            image_id=image_id,
            score=by_image[image_id],
            image=store.image(image_id),
            truth=store.mask(image_id),
            prediction=scores.prediction(image_id),
            group=group,
        )
        for group, image_id in choose(by_image)
    ]


def _confusion_table(scores: Scores) -> pd.DataFrame:
    """One row a cell: classes that occur in the truth, by classes that occur at all."""
    shares, shown = row_shares(scores.confusion), occurring(scores.confusion)
    names = scores.class_names
    rows = [
        {
            "actual": names[true],
            "predicted": names[predicted],
            "pixels": int(scores.confusion[true, predicted]),
            "share": round(float(shares[true, predicted]), DECIMALS),
        }
        for true in shown
        if scores.confusion[true].any()
        for predicted in shown
    ]
    return pd.DataFrame(rows)


def _class_table(evaluation: dict[str, Any]) -> pd.DataFrame:
    """One row a class that occurs in the truth: those that mIoU is the mean over."""
    rows = [
        {"class": name, "iou": round(figures["iou"], DECIMALS)}
        for name, figures in evaluation["classes"].items()
        if figures["truth_pixels"]
    ]
    return pd.DataFrame(rows)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _sentence(evaluation: dict[str, Any]) -> str:
    text = f"mIoU {evaluation['miou']:.3f} on {evaluation['images']} images of {SPLIT}"
    if evaluation["miou_low"] is None:
        return text
    return (
        f"{text} ({100 * evaluation['confidence']:g} % interval "
        f"{evaluation['miou_low']:.3f} to {evaluation['miou_high']:.3f})"
    )
