"""Compares a model with another that was scored on the same split, for the evaluation page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from segops.evaluate.bootstrap import (
    paired_class_differences,
    paired_difference,
    true_classes,
    without_images,
)
from segops.params.evaluate import EvaluateParams
from segops.report.page_inputs import Opponent
from segops.runtime.errors import SegopsError


def oppose(
    name: str,
    counts_a: pd.DataFrame,
    counts_b: pd.DataFrame,
    evaluation_b: Mapping[str, Any],
    trained_on: Collection[str],
    settings: EvaluateParams,
    class_names: Sequence[str],
) -> Opponent:
    """Compare a model with another on the images that neither was trained on.

    The classes are those in the truth of these images, whatever either model predicts. The ends of
    the two-sided interval at level c are the one-sided bounds at level (1 + c) / 2.

    Args:
        name: What people call the other model.
        counts_a: Table of counts of the model; see :mod:`segops.evaluate.bootstrap`.
        counts_b: Table of counts of the other.
        evaluation_b: Evaluation of the other, of the form of ``metrics/evaluation.json``.
        trained_on: SHA-256 of the images that either model was trained on.
        settings: Level, resamples and seed of the paired bootstrap.
        class_names: The names in id order.

    Raises:
        SegopsError: No image is left, or the two were not scored on the same images and masks.
    """
    ours, theirs = (without_images(counts, trained_on) for counts in (counts_a, counts_b))
    classes = true_classes(ours)
    if not classes:
        raise SegopsError(
            f"{name}: no labelled image is left to compare on; the two models were trained on all "
            "of them. Put images into val that neither was trained on."
        )
    samples, seed = settings.bootstrap_samples, settings.seed
    one_sided = (1 + settings.confidence) / 2
    whole = paired_difference(ours, theirs, classes, samples, one_sided, seed)
    single = paired_class_differences(ours, theirs, classes, samples, settings.confidence, seed)
    return Opponent(
        name=name,
        evaluation=evaluation_b,
        images=whole.images,
        excluded=int(counts_a["image_id"].nunique()) - whole.images,
        confidence=settings.confidence,
        miou=whole,
        classes={class_names[label]: one for label, one in single.items()},
    )
