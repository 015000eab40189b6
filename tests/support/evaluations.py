"""An evaluation, pictures and an opponent for the tests of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from segops.metrics.iou import Difference
from segops.metrics.wrong_pixels import KINDS
from segops.report.page_inputs import GalleryPicture, ImageRow, Mistake, Opponent, Place

NAMES = ("ground", "cat", "cow", "dog")
UNION_ERRORS = {"boundary": 0.25, "extent": 0.75, "segment": 0.0}
"""Shares of what each class lacks to an IoU of 1."""


def confusion_of(classes: int = 4) -> np.ndarray:
    """Class 2 occurs nowhere, class 3 is predicted alone."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1], matrix[0, 3] = 900, 90, 150, 50, 10
    return matrix


def old_evaluation(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """As releases before boundary figures wrote it."""
    empty = dict.fromkeys(("iou", "precision", "recall", "f1"))
    classes: dict[str, dict[str, Any]] = {
        name: {**empty, "intersection": 0, "predicted_pixels": 0, "truth_pixels": 0}
        for name in names
    }
    classes[names[0]] |= {"iou": 0.7826, "precision": 0.8571, "recall": 0.9, "f1": 0.878}
    classes[names[0]] |= {"intersection": 900, "predicted_pixels": 1050, "truth_pixels": 1000}
    classes[names[1]] |= {"iou": 0.1724, "precision": 0.3571, "recall": 0.25, "f1": 0.2941}
    classes[names[1]] |= {"intersection": 50, "predicted_pixels": 140, "truth_pixels": 1234567}
    return {
        "split": "val",
        "images": 7,
        "miou": 0.6123,
        "miou_low": 0.5812,
        "miou_high": 0.6499,
        "confidence": 0.95,
        "miou_truth_or_prediction": 0.4087,
        "pixel_accuracy": 0.9011,
        "mean_class_accuracy": 0.7022,
        "frequency_weighted_iou": 0.8033,
        "mean_precision": 0.6044,
        "mean_recall": 0.7055,
        "mean_f1": 0.6066,
        "classes": classes,
        "data_hash": "d" * 64,
        "val_hash": "e" * 64,
        "weights_sha256": "a" * 64,
        "bundle_digest": "b" * 64,
    }


def evaluation_of(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """With every figure of this release."""
    evaluation = old_evaluation(names)
    contours = ("boundary_iou", "boundary_f1", "contour_distance", "hausdorff95")
    for figures in evaluation["classes"].values():
        figures |= dict.fromkeys(contours)
    for index, name in enumerate(names[:2]):
        values = (0.311 + index, 0.322 + index, 3.33 + index, 4.44 + index)
        evaluation["classes"][name] |= dict(zip(contours, values, strict=True))
        lacking = 1 - evaluation["classes"][name]["iou"]
        kinds = {f"{kind}_error": lacking * share for kind, share in UNION_ERRORS.items()}
        evaluation["classes"][name] |= kinds
    sizes = {"objects": 3, "images": 2, "pixels": 500, "recall": 0.4142, "found": 0.6667}
    return evaluation | {
        "boundary": {"iou": 0.5151, "f1": 0.5252, "contour_distance": 6.16, "hausdorff95": 27.1},
        "calibration": {
            "expected_calibration_error": 0.0771,
            "confidence": 0.8,
            "bins": [
                {"low": 0.0, "high": 0.5, "pixels": 0, "confidence": None, "accuracy": None},
                {"low": 0.5, "high": 1.0, "pixels": 1200, "confidence": 0.8, "accuracy": 0.7},
            ],
        },
        "slices": [
            {"group": "object size", "name": "small", "definition": "< 32²", "miou": None, **sizes},
            {"group": "scene", "name": "crowded", "definition": ">= 4", "miou": None}
            | dict.fromkeys(("recall", "found"))
            | dict.fromkeys(("objects", "images", "pixels"), 0),
        ],
        "confusions": [{"truth": names[1], "predicted": names[0], "pixels": 150, "share": 0.75}],
        "errors": {"missed": 150, "false alarm": 40, "confusion": 0, "boundary": 60},
        "predict": {"mode": "whole", "flip": True, "scales": [0.5, 1.0], "crf": {"iterations": 5}},
    }


def opponent_of(name: str = "champion, version 3", old: bool = False) -> Opponent:
    """A model that is 0.05 worse, surely so on the second class alone."""
    evaluation = (old_evaluation if old else evaluation_of)() | {"miou": 0.5623}
    return Opponent(
        name=name,
        evaluation=evaluation,
        images=6,
        excluded=1,
        confidence=0.95,
        miou=Difference(0.05, -0.012, 0.11),
        classes={"ground": Difference(-0.01, -0.03, 0.01), "cat": Difference(0.11, 0.04, 0.18)},
    )


def pictures_of(count: int = 3) -> list[GalleryPicture]:
    """Pictures of 40 x 30 pixels: a cat missed, and more of a dog seen falsely in each next one."""
    image = np.full((30, 40, 3), 120, dtype=np.uint8)
    truth = np.zeros((30, 40), dtype=np.uint8)
    truth[5:20, 5:20] = 1
    truth[4, 5:20] = 255
    pictures = []
    for index in range(count):
        prediction, kinds = np.zeros_like(truth), np.zeros_like(truth)
        kinds[5:20, 5:20] = 1
        errors = [Mistake("cat", "missed", 225)]
        if index:
            prediction[22 : 22 + index, 30:] = 3
            kinds[22 : 22 + index, 30:] = 2
            errors.append(Mistake("dog", "false alarm", 10 * index))
        activation = np.full((30, 40), 200, dtype=np.uint8) if index == 1 else None
        pictures.append(
            GalleryPicture(
                f"image{index}", 0.5 - index / 10, image, truth, prediction, kinds, tuple(errors),
                None if index == 2 else 0.9 - index / 10, activation,
                None if activation is None else "cat",
            )
        )  # fmt: skip
    return pictures


def image_rows_of(count: int = 3) -> list[ImageRow]:
    """Rows of the pictures of :func:`pictures_of` in their order, and of one that is all void."""
    rows = [
        ImageRow(
            one.image_id, one.score, 1185, sum(mistake.pixels for mistake in one.errors),
            {kind: sum(each.pixels for each in one.errors if each.kind == kind) for kind in KINDS},
            "cat", 0.0, one.confidence,
        )
        for one in pictures_of(count)
    ]  # fmt: skip
    nothing = dict.fromkeys(KINDS, 0)
    return [*rows, ImageRow("all <i>void</i>", None, 0, 0, nothing, None, None, 0.5)]


def places_of() -> dict[str, Place]:
    """Places of some figures in the images of :func:`image_rows_of`."""
    return {
        "cell-1-0": Place(3, ((2, 1200), (0, 225), (1, 7))),
        "cell-0-3": Place(9, ((1, 10),)),
        "union-1-1": Place(1, ((0, 225),)),
        "slice-0": Place(2, ((0, 225), (1, 225))),
        "bin-1": Place(4, ((1, 40), (0, 30))),
        "cell-0-2": Place(4, ()),
        "iou-1": Place(3, ((1, 300), (0, 225))),
        "kind-0": Place(2, ((2, 225), (1, 225))),
    }
