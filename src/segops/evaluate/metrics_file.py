"""The content of ``metrics/evaluation.json``: every metric of a scored model, and what it is of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segops import paths
from segops.evaluate.bootstrap import PIXELS, interval
from segops.metrics.catalogue import compute_metrics
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import ClassPixels
from segops.params.evaluate import EvaluateParams
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores


def evaluation(
    scores: Scores, store: PackedStore, split: str, settings: EvaluateParams
) -> dict[str, Any]:
    """The evaluation of a model that was scored on a split of the store.

    Returns:
        The evaluation, ready for JSON: the metrics of :mod:`segops.metrics.catalogue`, mIoU with
        its interval, where the errors are (:meth:`.SplitFigures.summary`), how the model predicted,
        and hashes of data, weights and bundle.

    Raises:
        SegopsError: The split has no labelled pixel.
    """
    if scores.confusion.sum() == 0:
        raise SegopsError(
            f"{paths.PACKED}: {split} has no labelled pixel to score on. Put labelled images into "
            f"{split} that the model was not trained on."
        )
    metrics = _metrics(scores.split_counts, scores.counts, scores.class_names, settings)
    if scores.summary:  # a model that tells no confidences says so
        metrics.setdefault("calibration", None)
    return {
        "split": split,
        "images": len(scores.images),
        **metrics,
        **scores.summary,
        "background": scores.classes.background_name,
        "predict": scores.predict,
        "data_hash": store.data_hash,
        "val_hash": store.split_hash(split),
        "weights_sha256": scores.weights_sha256,
        "bundle_digest": scores.bundle_digest,
    }


def evaluation_from_counts(
    counts: pd.DataFrame, class_names: Sequence[str], settings: EvaluateParams
) -> dict[str, Any]:
    """What a table of counts alone tells of a model, for when its images are not scored again.

    As :func:`evaluation`, without what takes the masks: boundaries, calibration, errors.

    Raises:
        SegopsError: The table lacks a column or contradicts itself.
    """
    sums = counts.groupby("class_id")[list(PIXELS)].sum().reindex(range(len(class_names)))
    pixels = ClassPixels(*(sums[name].fillna(0).to_numpy(np.int64) for name in PIXELS))
    metrics = _metrics(SplitCounts(pixels), counts, class_names, settings)
    return {"images": int(counts["image_id"].nunique()), **metrics}


def _metrics(
    split_counts: SplitCounts,
    counts: pd.DataFrame,
    class_names: Sequence[str],
    settings: EvaluateParams,
) -> dict[str, Any]:
    """The metrics of the catalogue, and mIoU's interval."""
    ends = interval(counts, settings.bootstrap_samples, settings.confidence, settings.seed)
    low, high = (None if math.isnan(one) else one for one in ends)
    metrics = compute_metrics(split_counts, class_names)
    return {
        "miou": metrics.pop("miou"),
        "miou_low": low,
        "miou_high": high,
        "confidence": settings.confidence,
        **metrics,
    }
