"""Compares predicted masks with the truth, image by image, and adds up the counts.

:func:`judge` is safe to call in several threads; a :class:`Tally` adds up in one thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.score import ERRORS
from segops.metrics.confusion import confusion_matrix
from segops.metrics.iou import class_pixels
from segops.metrics.split_figures import ImageFigures, SplitFigures, judge_image
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")


@dataclass(frozen=True)
class Predicted:
    """A prediction that is to be judged.

    Attributes:
        sha256: SHA-256 of the image's file.
        truth: uint8 (H, W), ids and 255 for void.
        mask: uint8 (H, W), predicted ids.
        top: float32 (H, W), probability of the predicted class; None where the model gives none.
    """

    image_id: str
    sha256: str
    truth: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    top: NDArray[np.float32] | None


@dataclass(frozen=True)
class JudgedImage:
    """A prediction and its counts.

    Attributes:
        predicted: The prediction.
        confusion: int64 (C, C), rows truth, columns prediction.
        figures: All other counts; None where only pixels are counted.
    """

    predicted: Predicted
    confusion: NDArray[np.int64]
    figures: ImageFigures | None


def judge(one: Predicted, classes: int, details: bool) -> JudgedImage:
    """Compare a prediction with the truth; without `details`, count pixels only.

    Raises:
        SegopsError: The mask is no prediction for this truth.
    """
    try:
        if not details:
            return JudgedImage(one, confusion_matrix(one.truth, one.mask, classes), None)
        figures = judge_image(one.truth, one.mask, classes, one.top)
        return JudgedImage(one, figures.confusion, figures)
    except ValueError as error:
        raise SegopsError(f"{one.image_id}: {error}.") from error
    except Exception:
        log.error("%s: the prediction cannot be judged.", one.image_id)
        raise


class Tally:
    """Adds images up. What it keeps of each is a few numbers a class, and no pixels.

    Attributes:
        split: The sum.
        confidences: Mean of `top` by image id; None where the model gives none.
    """

    def __init__(self, class_names: tuple[str, ...], details: bool) -> None:
        self.split = SplitFigures(class_names, details)
        self.confidences: dict[str, float | None] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._errors: list[tuple[Any, ...]] = []

    def add(self, judged: JudgedImage) -> None:
        """Add an image."""
        one = judged.predicted
        mean = None if one.top is None else float(one.top.mean(dtype=np.float64))
        self.confidences[one.image_id] = mean
        both, predicted, truth = (part.tolist() for part in class_pixels(judged.confusion))
        self._rows += [
            (one.image_id, one.sha256, label, both[label], predicted[label], truth[label])
            for label in range(len(truth))
            if truth[label] or predicted[label]
        ]
        if judged.figures is None:
            self.split.confusion += judged.confusion
        else:
            self.split.add(judged.figures)
            self._errors += [(one.image_id, *error) for error in judged.figures.errors]

    @property
    def counts(self) -> pd.DataFrame:
        """The table of counts; see :mod:`segops.evaluate.bootstrap`."""
        return pd.DataFrame(self._rows, columns=list(COLUMNS))

    @property
    def errors(self) -> pd.DataFrame:
        """The table of errors: one row per image, class and kind of error that occurs."""
        table = pd.DataFrame(self._errors, columns=list(ERRORS))
        return table.astype(
            {"image_id": str, "class_id": np.int64, "kind": str, "pixels": np.int64}
        )
