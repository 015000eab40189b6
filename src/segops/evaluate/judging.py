"""Compares predicted masks with the truth, image by image, and adds up the counts.

:func:`judge` is safe to call in several threads; a :class:`Tally` adds up in one thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.score import ERRORS, packed
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import SplitCounts
from segops.metrics.image import judge_image
from segops.metrics.iou import class_pixels
from segops.metrics.split_figures import SplitFigures
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.metrics.image import ImageFigures

log = logging.getLogger("segops")


@dataclass(frozen=True)
class Predicted:
    """A prediction that is to be judged.

    Attributes:
        image_id: The image.
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
    """The counts of one image, and its pictures.

    Attributes:
        image_id: The image.
        sha256: SHA-256 of the image's file.
        confusion: int64 (C, C).
        figures: All other counts; None where only pixels are counted.
        confidence: Mean of `top`; None where the model gives none.
        mask: The mask, packed; None where it is not to be kept.
        kinds: The kinds of errors, packed; likewise.
    """

    image_id: str
    sha256: str
    confusion: NDArray[np.int64]
    figures: ImageFigures | None
    confidence: float | None
    mask: bytes | None
    kinds: bytes | None


def judge(one: Predicted, classes: int, details: bool, keep: bool) -> JudgedImage:
    """Compare a prediction with the truth.

    Args:
        one: The prediction.
        classes: Number of classes.
        details: Whether to look at contours, objects, calibration and errors, or count pixels only.
        keep: Whether to keep the mask and, with `details`, the kinds of errors.

    Raises:
        SegopsError: The mask is no prediction for this truth.
    """
    try:
        figures = judge_image(one.truth, one.mask, classes, one.top) if details else None
        confusion = (
            confusion_matrix(one.truth, one.mask, classes) if figures is None else figures.confusion
        )
        mask = packed(one.mask) if keep else None
        kinds = packed(figures.kinds) if keep and figures is not None else None
    except ValueError as error:
        raise SegopsError(f"{one.image_id}: {error}.") from error
    except Exception:
        log.error("%s: the prediction cannot be judged.", one.image_id)
        raise
    confidence = None if one.top is None else float(one.top.mean(dtype=np.float64))
    return JudgedImage(one.image_id, one.sha256, confusion, figures, confidence, mask, kinds)


class Tally:
    """Adds images up. What it keeps of each is a few numbers a class, and no pixels.

    Args:
        class_names: The names in id order.
        details: Whether the images are judged in detail.
    """

    def __init__(self, class_names: tuple[str, ...], details: bool) -> None:
        classes = len(class_names)
        self._split = SplitFigures(class_names) if details else None
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self._rows: list[tuple[Any, ...]] = []
        self._errors: list[tuple[Any, ...]] = []
        self.confidences: dict[str, float | None] = {}

    def add(self, judged: JudgedImage) -> None:
        """Add an image."""
        self.confusion += judged.confusion
        self._rows += _rows(judged.image_id, judged.sha256, judged.confusion)
        self.confidences[judged.image_id] = judged.confidence
        if self._split is not None and judged.figures is not None:
            self._split.add(judged.figures)
            self._errors += [(judged.image_id, *error) for error in judged.figures.errors]

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

    @property
    def split_counts(self) -> SplitCounts:
        """What the metrics of the split are computed from."""
        if self._split is None:
            return SplitCounts(class_pixels(self.confusion))
        return self._split.counts

    @property
    def summary(self) -> dict[str, Any]:
        """Where the errors are; empty where only pixels were counted."""
        return {} if self._split is None else self._split.summary()


def _rows(image_id: str, sha256: str, confusion: NDArray[np.int64]) -> list[tuple[Any, ...]]:
    """The image's rows of the table of counts: its classes in truth or prediction, ascending."""
    both, predicted, truth = class_pixels(confusion)
    return [
        (image_id, sha256, int(label), int(both[label]), int(predicted[label]), int(truth[label]))
        for label in np.flatnonzero(truth + predicted)
    ]
