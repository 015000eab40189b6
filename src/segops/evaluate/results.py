"""What the stage evaluate writes of a model's scores: metrics, tables and the page."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from segops import files, paths
from segops.evaluate import exports, kept_champion, kept_masks
from segops.evaluate.image_table import image_rows, page_places, write_image_table
from segops.evaluate.metrics_file import evaluation
from segops.evaluate.pictures import gallery
from segops.evaluate.suspects import label_errors
from segops.predict.bundle import TORCH
from segops.report.evaluation_page import NAME, occurring, row_shares, write_evaluation_page
from segops.report.model_facts import network_words
from segops.runtime import opener

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores
    from segops.params.evaluate import EvaluateParams

DECIMALS = 6


def write_results(
    root: Path,
    scores: Scores,
    store: PackedStore,
    split: str,
    trained_on: Collection[str],
    settings: EvaluateParams,
    pictures: bool,
    registered: str,
    parity: dict[str, Any],
    corrupted: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the evaluation, the table of counts, some masks, the plots and the page.

    The evaluation is returned. The page alone shows the champion beside the model, where one is
    known here.

    Args:
        root: The workspace.
        scores: The model's scores. The masks of the images that
            :func:`segops.evaluate.kept_masks.chosen` names were kept, and where pictures are
            wanted all of them.
        store: The packed data that it was scored on.
        split: The split of it.
        trained_on: SHA-256 of the images that the model was trained on.
        settings: Level, resamples and seed of the intervals.
        pictures: Whether the page shows photographs.
        registered: Name of the registered model, for the page.
        parity: What :func:`segops.evaluate.exports.judge` says of it and its exports.
        corrupted: What :func:`segops.evaluate.robustness.robustness` says, where it was asked for.

    Raises:
        SegopsError: The split has no labelled pixel.
    """
    found = evaluation(scores, store, split, settings)
    if corrupted is not None:
        found["robustness"] = corrupted
    opponent = kept_champion.opponent(
        root,
        scores.counts,
        found["val_hash"],
        scores.class_names,
        scores.bundle_digest,
        trained_on,
        settings,
    )
    labels = label_errors(root, scores, store, split, settings, masks=pictures)
    images = image_rows(scores, labels)
    write_evaluation_page(
        root / paths.EVALUATION_PAGE,
        found,
        scores.confusion,
        gallery(scores, store) if pictures else (),
        root / paths.LEARNING_CURVES,
        () if opponent is None else (opponent,),
        about=network_words(files.read_json(root / paths.SEGMENTER / opener.MODEL)),
        evaluated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        registered=registered,
        classes=scores.classes,
        speeds=[{"name": NAME, **parity[TORCH]}] if parity else (),
        exports=exports.rows(parity),
        images=images if pictures else (),
        places=page_places(scores, store, split, images, labels) if pictures else None,
        labels=labels,
    )
    files.write_json(root / paths.EXPORT_PARITY, parity)
    files.write_json(root / paths.EVALUATION, found)
    with files.atomic_path(root / paths.COUNTS) as temporary:
        scores.counts.to_parquet(temporary, index=False)
    kept_masks.write(root / paths.KEPT_MASKS, kept_masks.of(scores, store))
    write_image_table(root / paths.IMAGE_TABLE, images)
    _write_csv(root / paths.CONFUSION_PLOT, _confusion_table(scores))
    _write_csv(root / paths.CLASS_PLOT, _class_table(found))
    return found


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
