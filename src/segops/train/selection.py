"""Selection mIoU, the score that chooses the checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segops.data.imbalance import pixel_counts
from segops.data.store import PackedStore
from segops.metrics.device_confusion import DeviceConfusion
from segops.metrics.iou import class_pixels, miou
from segops.predict.parts import parts
from segops.runtime.errors import SegopsError
from segops.runtime.torch_predictor import TorchPredictor
from segops.train.features import KeptParts

IMAGES_A_FETCH = 32
"""Images whose counts are on the device at a time; 255 classes take half a megabyte an image."""

log = logging.getLogger("segops")


def selection_miou(
    predictor: TorchPredictor,
    store: PackedStore,
    ids: Sequence[str],
    fabric: Any,
    features: KeptParts | None = None,
) -> float:
    """MIoU on the selection split `ids`, in 0..1, computed as evaluation computes it on val.

    Images at their own size, large ones in parts, fill one confusion matrix. The ranks, all of
    which must call this, divide the images among them; each image counts once. `features` are
    those of the images, where the encoder is frozen.

    Raises:
        SegopsError: The split has no labelled pixel.
    """
    score = float(miou(*class_pixels(selection_confusion(predictor, store, ids, fabric, features))))
    if math.isnan(score):
        raise SegopsError(
            f"train.selection_share: the {len(ids)} images of the selection split have no labelled "
            "pixel. Raise the share, or set it to 0."
        )
    return score


def warn_of_absent_classes(
    store: PackedStore, trained_on: Sequence[str], selection: Sequence[str]
) -> None:
    """Warn if the selection split lacks most of the classes, which is common in small data sets."""
    known, there = (pixel_counts(store, ids) > 0 for ids in (trained_on, selection))
    absent = [store.class_names[index] for index in np.flatnonzero(known & ~there)]
    if 2 * len(absent) > np.count_nonzero(known):
        log.warning(
            "The checkpoint is chosen by %d image(s), which lack %d of the %d classes trained on "
            "(%s). Raise train.selection_share, or set it to 0 to take the last weights.",
            len(selection),
            len(absent),
            np.count_nonzero(known),
            ", ".join(absent),
        )


def selection_confusion(
    predictor: TorchPredictor,
    store: PackedStore,
    ids: Sequence[str],
    fabric: Any,
    features: KeptParts | None = None,
) -> NDArray[np.int64]:
    """The confusion matrix of :func:`selection_miou`, (classes, classes), rows are truth.

    The device that predicts the masks also counts them.
    """
    classes = len(predictor.class_names)
    counter, counts = DeviceConfusion(classes), np.zeros((classes, classes), np.int64)
    own = ids[fabric.global_rank :: fabric.world_size]
    own_parts = ((image_id, part) for image_id in own for part in parts(*store.size(image_id)))
    for number, (image_id, part) in enumerate(own_parts):
        if number % IMAGES_A_FETCH == 0:
            counts += counter.fetch().sum(axis=0)
        # A copy, because torch does not take the store's read-only views.
        truth = torch.from_numpy(np.array(store.mask(image_id)[part.place]))
        if features is None:
            found = predictor.predict_ids(store.image(image_id)[part.around])
        else:
            found = features.predict_ids(predictor, image_id, part)
        counter.add(truth.to(predictor.device), found[part.within])
    counts += counter.fetch().sum(axis=0)
    summed: Tensor = fabric.all_reduce(torch.from_numpy(counts), reduce_op="sum")
    return summed.cpu().numpy()
