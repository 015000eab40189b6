"""Compares ways of predicting with one model: mIoU and time of each."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segops import files
from segops.data.store import PackedStore
from segops.evaluate.bootstrap import paired_difference, true_classes
from segops.evaluate.score import Scores, score_variants
from segops.metrics.catalogue import compute_metrics
from segops.metrics.iou import Difference
from segops.params.evaluate import EvaluateParams
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.runtime.predict_settings import PredictSettings

SCALES = (0.75, 1.0, 1.25)
"""Sizes of the multi-scale variant, where the model's own settings name no others."""
CRF_ITERATIONS = 5
"""Of the CRF variant, where the model's own settings name none: that of Krähenbühl's own code."""
MULTIPLE = 32
"""Windows are a multiple of this: the stride of most encoders."""
OWN = "the model's own"


@dataclass(frozen=True)
class Variant:
    """A way of predicting.

    Attributes:
        settings: All settings, as `predict` in ``params.yaml``.
        description: What the settings amount to on the images at hand; two variants with the same
            description give the same masks.
    """

    name: str
    settings: Mapping[str, Any]
    description: str


@dataclass(frozen=True)
class VariantResult:
    """A variant and how it did.

    Attributes:
        miou: MIoU over the classes in the truth, 0..1.
        boundary_iou: Mean boundary IoU over the classes in the truth, 0..1; None where undefined.
        milliseconds: Median time of one prediction; None where only one was made.
        difference: MIoU minus that of the first variant, with its two-sided interval; None for the
            first itself.
    """

    variant: Variant
    miou: float
    boundary_iou: float | None
    milliseconds: float | None
    difference: Difference | None


def variants(own: Mapping[str, Any], sizes: Collection[tuple[int, int]]) -> list[Variant]:
    """The ways of predicting that are worth comparing.

    Plain whole images, windows, flip, multi-scale, flip and multi-scale, CRF, and `own`, the
    model's own settings, of which keys may be missing. Whatever a variant does not change is as in
    `own`, or off. `sizes` are height and width of the images, at least one.
    """
    try:
        base = PredictSettings.model_validate(dict(own)).model_dump(mode="json")
    except ValidationError as error:
        raise SegopsError(
            f"The model's way of predicting is not one of this version of segops: {error}. "
            "Compare it in a checkout of the version that made it."
        ) from None
    largest = max(height * width for height, width in sizes)
    plain = copy.deepcopy(base)
    # Whole images however large would not fit into memory.
    plain["mode"] = "whole" if largest <= base["whole_pixels"] else "auto"
    plain["flip"], plain["scales"] = False, [1.0]
    plain["crf"]["iterations"] = 0
    scales = base["scales"] if base["scales"] != [1.0] else list(SCALES)
    crf = plain["crf"] | {"iterations": base["crf"]["iterations"] or CRF_ITERATIONS}
    window = _window(base["window"], sizes)
    ways = {
        "plain": plain,
        "windows": plain | {"mode": "window", "window": window},
        "flip": plain | {"flip": True},
        "multi-scale": plain | {"scales": scales},
        "flip and multi-scale": plain | {"flip": True, "scales": scales},
        "CRF": plain | {"crf": crf},
        OWN: base,
    }
    return [Variant(name, way, _describe(way, largest)) for name, way in ways.items()]


def compare(
    bundle: Path,
    store: PackedStore,
    split: str,
    settings: EvaluateParams,
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    limit: int | None = None,
    device: str = "auto",
) -> list[VariantResult]:
    """Score a model on a split in every way of :func:`variants`, and return a result for each.

    Ways that amount to the same on these images are scored once. `settings` are level, resamples
    and seed of the paired bootstrap; the other arguments are those of
    :func:`segops.evaluate.score.score`.

    Raises:
        SegopsError: As :func:`segops.evaluate.score.score`; the bundle is too old to predict in
            more than one way; or no labelled pixel is left to score on.
    """
    own = files.read_json(bundle / opener.MODEL).get("predict", {})
    every = variants(own, [store.size(one) for one in store.ids(split)[:limit]])
    distinct = {one.description: one.settings for one in reversed(every)}
    with files.scratch() as scratch:
        scores = score_variants(
            bundle,
            store,
            split,
            scratch / "scores",
            list(distinct.values()),
            device,
            threads=threads,
            exclude_sha256=exclude_sha256,
            limit=limit,
        )
    found = dict(zip(distinct, scores, strict=True))
    plain = found[every[0].description]
    if plain.confusion.sum() == 0:
        raise SegopsError(
            f"{store.path}: no labelled pixel of {split} is left to score on. Leave --limit out, "
            f"or put labelled images into {split} that the model was not trained on."
        )
    return [_measure(one, found[one.description], plain, settings) for one in every]


def _measure(
    variant: Variant, scores: Scores, plain: Scores, settings: EvaluateParams
) -> VariantResult:
    difference = None
    if variant.name != "plain":
        difference = paired_difference(
            scores.counts,
            plain.counts,
            true_classes(plain.counts),
            settings.bootstrap_samples,
            (1 + settings.confidence) / 2,  # both one-sided bounds make the two-sided interval
            settings.seed,
        )
    metrics = compute_metrics(scores.split_counts, scores.class_names)
    return VariantResult(
        variant=variant,
        miou=metrics["miou"],
        boundary_iou=metrics["boundary"]["iou"],
        milliseconds=scores.milliseconds,
        difference=difference,
    )


def _window(wanted: list[int], sizes: Collection[tuple[int, int]]) -> list[int]:
    """The wanted height and width, each made smaller where usual images would fit into it.

    Two thirds of the median side then, so that two windows with half an overlap cover an image.
    """
    window = []
    for axis in (0, 1):
        usual = statistics.median(size[axis] for size in sizes)
        smaller = max(MULTIPLE, MULTIPLE * round(usual * 2 / 3 / MULTIPLE))
        window.append(wanted[axis] if wanted[axis] < usual else min(wanted[axis], smaller))
    return window


def _describe(settings: Mapping[str, Any], largest: int) -> str:
    height, width = settings["window"]
    windows = f"windows {height} x {width}, overlap {settings['overlap']:g}"
    mode = settings["mode"]
    if mode == "auto":
        mode = "whole" if largest <= settings["whole_pixels"] else "both"
    parts = {
        "whole": ["whole"],
        "window": [windows],
        "both": [f"whole to {settings['whole_pixels']:,} pixels, else {windows}"],
    }[mode]
    if settings["flip"]:
        parts.append("flip")
    if list(settings["scales"]) != [1.0]:
        parts.append("scales " + " ".join(f"{scale:g}" for scale in settings["scales"]))
    if settings["crf"]["iterations"]:
        parts.append(f"CRF {settings['crf']['iterations']} iterations")
    return ", ".join(parts)
