"""The score that chooses the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from segops.data.store import PackedStore
from segops.errors import SegopsError
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import miou
from segops.predict.predictor import Predictor


def selection_miou(predictor: Predictor, store: PackedStore, ids: Sequence[str]) -> float:
    """MIoU on the selection split, computed as evaluation does on val.

    Whole images at their own size, one confusion matrix over all of them.

    Args:
        predictor: Holds the network.
        store: Holds the images.
        ids: The selection split, at least one id.

    Returns:
        mIoU in 0..1.

    Raises:
        SegopsError: The split has no labelled pixel.
    """
    classes = len(predictor.class_names)
    total = np.zeros((classes, classes), dtype=np.int64)
    for image_id in ids:
        prediction = predictor.predict_mask(store.image(image_id))
        total += confusion_matrix(store.mask(image_id), prediction, classes)
    score = miou(total)
    if math.isnan(score):
        raise SegopsError(
            f"train.selection_share: the {len(ids)} images of the selection split have no labelled "
            "pixel. Raise the share, or set it to 0."
        )
    return score
