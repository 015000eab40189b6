"""Judges the labels of images by the prediction of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.predict.bundle import BundledPredictor
from segops.quality.label_scores import Contradiction, segments, softmin
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError

MOST_BYTES = 2**28
"""Of an image's probabilities at a time; a larger image is predicted in parts."""
MARGIN = 256
"""Rows around a part that are predicted with it, so that its border has its surroundings."""


@dataclass(frozen=True)
class JudgedLabels:
    """What a model says of the labels of an image.

    Attributes:
        image_id: Its id.
        score: The label quality score, 0..1; None without a labelled pixel.
        segments: What contradicts, the surest first.
        prediction: uint8 (H, W), class ids.
    """

    image_id: str
    score: float | None
    segments: list[Contradiction]
    prediction: NDArray[np.uint8]


def judge(predictor: BundledPredictor, store: PackedStore, image_id: str) -> JudgedLabels:
    """Predict an image and judge its labels; safe to call in several threads.

    Raises:
        SegopsError: The mask holds an id that the model does not know, or the image cannot be
            predicted; it is named.
    """
    label, classes = store.mask(image_id), len(predictor.class_names)
    counted = label != VOID
    largest = int(label.max(where=counted, initial=0))
    if largest >= classes:
        raise SegopsError(
            f"{image_id}: the mask holds the id {largest}; expected 0 to {classes - 1}, or {VOID} "
            "for void. `dvc repro --force validate` names all such masks."
        )
    prediction = np.empty(label.shape, np.uint8)
    top, confidence = (np.empty(label.shape, np.float32) for _ in range(2))
    height, width = label.shape
    rows = max(1, MOST_BYTES // (4 * classes * width))
    for start in range(0, height, rows):
        part = slice(start, min(start + rows, height))
        probabilities = _probabilities(predictor, store.image(image_id), part, image_id)
        prediction[part], top[part] = probabilities.argmax(axis=0), probabilities.max(axis=0)
        ids = np.where(counted[part], label[part], 0)[None]
        confidence[part] = np.take_along_axis(probabilities, ids, axis=0)[0]
    return JudgedLabels(
        image_id, softmin(confidence[counted]), segments(label, prediction, top), prediction
    )


def _probabilities(
    predictor: BundledPredictor, image: NDArray[np.uint8], part: slice, image_id: str
) -> NDArray[np.float32]:
    """Probabilities float32 (C, h, W) of some rows of an image."""
    first = max(0, part.start - MARGIN) if part.stop - part.start < len(image) else 0
    around = image[first : part.stop + MARGIN]
    try:
        found = predictor.predict_probabilities(around)
    except SegopsError as error:
        raise SegopsError(f"{image_id}: {error}") from error
    return found[:, part.start - first : part.stop - first]
