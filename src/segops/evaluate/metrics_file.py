"""The content of ``metrics/evaluation.json``: every figure of a scored model, and what it is of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from segops import paths
from segops.evaluate.bootstrap import interval
from segops.metrics.iou import summary
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores
    from segops.params.evaluate import EvaluateParams


def evaluation(
    scores: Scores, store: PackedStore, split: str, settings: EvaluateParams
) -> dict[str, Any]:
    """Put together what was found out about a model.

    Args:
        scores: Its scores.
        store: The packed data that it was scored on.
        split: The split of it.
        settings: Level, resamples and seed of the interval of mIoU.

    Returns:
        The evaluation, ready for JSON: mIoU with its interval, the figures of
        :func:`segops.metrics.iou.summary` and :meth:`segops.metrics.split.SplitFigures.summary`,
        how it was predicted, and hashes of data, weights and bundle.

    Raises:
        SegopsError: The split has no labelled pixel.
    """
    if scores.confusion.sum() == 0:
        raise SegopsError(
            f"{paths.PACKED}: {split} has no labelled pixel to score on. Put labelled images into "
            f"{split} that the model was not trained on."
        )
    low, high = interval(
        scores.counts, settings.bootstrap_samples, settings.confidence, settings.seed
    )
    figures = summary(scores.confusion, scores.class_names)
    further = dict(scores.summary)
    by_class = further.pop("classes", {})
    classes = {
        name: values | by_class.get(name, {}) for name, values in figures.pop("classes").items()
    }
    return {
        "split": split,
        "images": len(scores.images),
        "miou": figures.pop("miou"),
        "miou_low": None if math.isnan(low) else low,
        "miou_high": None if math.isnan(high) else high,
        "confidence": settings.confidence,
        **figures,
        **further,
        "classes": classes,
        "predict": scores.predict,
        "data_hash": store.data_hash,
        "val_hash": store.split_hash(split),
        "weights_sha256": scores.weights_sha256,
        "bundle_digest": scores.bundle_digest,
    }
