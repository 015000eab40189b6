"""Judges the labels of images by the prediction of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segops.data.store import PackedStore
from segops.predict.bundle import BundledPredictor
from segops.predict.parts import parts
from segops.quality.label_scores import Contradiction, segments, softmin
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError


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
    image = store.image(image_id)
    for place, around, within in parts(*label.shape):
        try:
            found = predictor.predict_probabilities(image[around])
        except SegopsError as error:
            raise SegopsError(f"{image_id}: {error}") from error
        probabilities = found[:, *within]
        prediction[place], top[place] = probabilities.argmax(axis=0), probabilities.max(axis=0)
        ids = np.where(counted[place], label[place], 0)[None]
        confidence[place] = np.take_along_axis(probabilities, ids, axis=0)[0]
    return JudgedLabels(
        image_id, softmin(confidence[counted]), segments(label, prediction, top), prediction
    )
