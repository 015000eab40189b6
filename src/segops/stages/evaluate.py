"""Stage evaluate: score the packaged model on val and say how good it is, and how surely."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from segops import files, params
from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.evaluate import reference
from segops.evaluate.evaluation import evaluation, sentence
from segops.evaluate.pictures import EXPLAINED, gallery
from segops.evaluate.score import Scores, score
from segops.predict import isolate
from segops.report.confusion import occurring, row_shares
from segops.report.evaluation import write_evaluation_page

SPLIT = "val"
DECIMALS = 6
log = logging.getLogger("segops")


def run(root: Path) -> None:
    """Write the evaluation, the table of counts, the plots and the page.

    The page alone shows the champion beside the model, where one is known here.

    Args:
        root: The workspace.

    Raises:
        SegopsError: The model or the data is not usable, val holds an image that the model was
            trained on, or val has no labelled pixel.
    """
    settings = params.load(root)
    store = PackedStore(root / files.PACKED)
    bundle = root / files.SEGMENTER
    trained_on = _require_unseen(store, bundle)
    shown = settings.report.pictures
    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        scores = score(
            bundle,
            store,
            SPLIT,
            Path(scratch) / "scores",
            threads=settings.hardware.threads,
            masks=shown,
            explain=EXPLAINED if shown else 0,
        )
        found = evaluation(scores, store, SPLIT, settings.evaluate)
        opponent = reference.opponent(
            root,
            scores.counts,
            found["val_hash"],
            scores.class_names,
            scores.bundle_digest,
            trained_on,
            settings.evaluate,
        )
        write_evaluation_page(
            root / files.EVALUATION_PAGE,
            found,
            scores.confusion,
            gallery(scores, store) if shown else (),
            root / files.LEARNING_CURVES,
            () if opponent is None else (opponent,),
        )
    files.write_json(root / files.EVALUATION, found)
    with files.atomic_path(root / files.COUNTS) as temporary:
        scores.counts.to_parquet(temporary, index=False)
    _write_csv(root / files.CONFUSION_PLOT, _confusion_table(scores))
    _write_csv(root / files.CLASS_PLOT, _class_table(found))
    log.info("%s", sentence(found))


def _require_unseen(store: PackedStore, bundle: Path) -> frozenset[str]:
    """SHA-256 of the images that the model was trained on, none of them in val."""
    hashes = frozenset(files.read_json(bundle / isolate.MODEL)["training_images"].values())
    seen = [one for one in store.ids(SPLIT) if store.image_sha256(one) in hashes]
    if seen:
        raise SegopsError(
            f"{bundle}: the model was trained on {len(seen)} image(s) of {SPLIT}: "
            f"{', '.join(seen)}. Take them out of one of the two splits and train anew."
        )
    return hashes


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
