"""The content of ``metrics/evaluation.json``: every metric of a scored model, and what it is of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segops import paths
from segops.evaluate.bootstrap import PIXELS, interval
from segops.evaluate.places import slice_images
from segops.evaluate.subsets import metadata_slices, with_intervals
from segops.metrics.catalogue import compute_metrics
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import ClassPixels
from segops.params.evaluate import EvaluateParams
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores
    from segops.voc.metadata import Metadata


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
    known = store.metadata(split)
    summary = _with_subsets(scores, known, settings)
    if scores.summary:  # a model that tells no confidences says so
        metrics.setdefault("calibration", None)
    return {
        "split": split,
        "images": len(scores.images),
        **metrics,
        **summary,
        "background": scores.classes.background_name,
        "predict": scores.predict,
        "data_hash": store.data_hash,
        "val_hash": store.split_hash(split),
        **({} if known is None else {"metadata_hash": known.digest}),
        "weights_sha256": scores.weights_sha256,
        "bundle_digest": scores.bundle_digest,
    }


def _with_subsets(
    scores: Scores, metadata: Metadata | None, settings: EvaluateParams
) -> dict[str, Any]:
    """The summary of the scores, with the slices that are sets of images."""
    if not scores.summary:
        return {}
    slices: list[dict[str, Any]] = scores.summary["slices"]
    if scores.places is not None:
        images = slice_images(scores.places, scores.images)
        scenes = {place: ids for place, ids in images.items() if slices[place]["miou"] is not None}
        slices = with_intervals(slices, scores.counts, scenes, settings)
    if metadata is not None:
        slices = slices + metadata_slices(
            scores.counts, metadata, scores.images, scores.classes.background, settings
        )
    return scores.summary | {"slices": slices}


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
