"""Bootstrap intervals of mIoU and IoU, for one model and for two models on the same images.

A table of counts has one row per image and class that occurs in the image's truth or prediction,
with the columns of :data:`COLUMNS`; all pixel counts leave void out. Images are resampled, because
the pixels of one image are not independent. mIoU is computed from the summed counts of every
resample, exactly as from the split: no mean over images is taken anywhere.

The intervals are *expanded percentile* intervals. The spread of the bootstrap is too small by a
factor of about sqrt((n - 1) / n), and it ignores that the spread itself is estimated; quantiles
further out correct both. Source: Hesterberg, "What Teachers Should Know About the Bootstrap",
The American Statistician 69(4), 2015, section 5.3. On simulated splits it covers better than the
plain percentile, the BCa and the normal interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from segops.metrics.iou import ClassPixels, Difference, iou, miou
from segops.runtime.errors import SegopsError

COLUMNS = ("image_id", "image_sha256", "class_id", "intersection", "predicted", "truth")
PIXELS = ClassPixels._fields
RESAMPLES_AT_ONCE = 256


@dataclass(frozen=True)
class PairedDifference(Difference):
    """A difference on a split; without an interval where fewer than two images count.

    Attributes:
        images: How many images were compared; of a class, how many hold it in their truth.
        minimum_detectable: The smallest difference that these images could have told from zero:
            t * sqrt(n / (n - 1)) * s, where s is the standard deviation of the resampled
            differences, n the number of images, and t the `confidence` quantile of Student's t
            with n - 1 degrees of freedom. A smaller true difference is as likely as not missed.
            NaN with fewer than two images, and of a class.
    """

    images: int
    minimum_detectable: float = math.nan


def miou_from_counts(counts: pd.DataFrame, classes: Sequence[int]) -> float:
    """MIoU, 0..1, over those of `classes` that occur in the truth; NaN where none does.

    `classes` are fixed beforehand; see :func:`true_classes`.

    Raises:
        SegopsError: The table lacks a column or contradicts itself.
    """
    return float(miou(*_pixels(_per_image(counts, classes).sum(axis=0))))


def true_classes(counts: pd.DataFrame) -> tuple[int, ...]:
    """Ids of the classes that occur in the truth, ascending."""
    occurs = counts.loc[counts["truth"] > 0, "class_id"]
    return tuple(sorted(int(one) for one in occurs.unique()))


def without_images(counts: pd.DataFrame, hashes: Iterable[str]) -> pd.DataFrame:
    """Leave out the images with these SHA-256, as those that a model was trained on."""
    kept = counts[~counts["image_sha256"].isin(list(hashes))]
    return kept.reset_index(drop=True)


def interval(
    counts: pd.DataFrame, samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Bootstrap interval of mIoU over the classes that occur in the truth.

    A class without a true pixel in a resample is left out of that resample's mean.

    Args:
        counts: Table of counts.
        samples: Number of resamples.
        confidence: Level of the two-sided interval, 0..1.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, 0..1; NaN with fewer than two images.

    Raises:
        SegopsError: The table lacks a column or contradicts itself.
    """
    images = _per_image(counts, true_classes(counts))
    if len(images) < 2:
        return math.nan, math.nan
    resampled = _resampled_mious(images[:, None], samples, seed)[:, 0]
    return _bounds(resampled, _expanded((1 - confidence) / 2, len(images)))


def paired_difference(
    counts_a: pd.DataFrame,
    counts_b: pd.DataFrame,
    classes: Sequence[int],
    samples: int,
    confidence: float,
    seed: int,
) -> PairedDifference:
    """Compare two models on the same images by a paired bootstrap.

    Each resample draws the same images for both models, so that images that are hard for both do
    not widen the interval. A class without a true pixel in a resample is left out for both.

    Args:
        counts_a: Table of counts of the challenger.
        counts_b: Table of counts of the champion.
        classes: Class ids over which mIoU is averaged, fixed beforehand; see :func:`true_classes`.
        samples: Number of resamples.
        confidence: Level of the one-sided bounds, 0..1.
        seed: Seed of the resampling.

    Returns:
        Challenger minus champion, with one-sided bounds: the true difference is below `low` with
        probability 1 - `confidence`, and above `high` likewise.

    Raises:
        SegopsError: A table lacks a column or contradicts itself, or the two do not hold the same
            images with the same truth.
    """
    pair = _paired(counts_a, counts_b, classes)
    challenger, champion = miou(*_pixels(pair.sum(axis=0)))
    difference, number = float(challenger - champion), len(pair)
    if number < 2:
        return PairedDifference(difference, math.nan, math.nan, number)
    mious = _resampled_mious(pair, samples, seed)
    resampled = mious[:, 0] - mious[:, 1]
    low, high = _bounds(resampled, _expanded(1 - confidence, number))
    spread = float(np.nanstd(resampled)) * math.sqrt(number / (number - 1))
    detectable = float(stdtrit(number - 1, confidence)) * spread
    return PairedDifference(difference, low, high, number, detectable)


def paired_class_differences(
    counts_a: pd.DataFrame,
    counts_b: pd.DataFrame,
    classes: Sequence[int],
    samples: int,
    confidence: float,
    seed: int,
) -> dict[int, PairedDifference]:
    """Compare two models class by class on the same images by a paired bootstrap.

    The resamples are those of :func:`paired_difference` with the same seed, for all classes. A
    resample without a true pixel of a class is left out for that class. The quantiles follow from
    the number of images that hold the class, because only these tell how much its IoU varies. The
    intervals are not corrected for the number of classes: of many classes some exclude 0 by chance.

    Args:
        counts_a: Table of counts of one model.
        counts_b: Table of counts of the other.
        classes: Class ids.
        samples: Number of resamples.
        confidence: Level of the two-sided intervals, 0..1.
        seed: Seed of the resampling.

    Returns:
        By class id: the first model minus the second, with its interval.

    Raises:
        SegopsError: As :func:`paired_difference`.
    """
    pair = _paired(counts_a, counts_b, classes)
    holding = (pair[:, 0, :, 2] > 0).sum(axis=0)
    whole = _class_iou(pair.sum(axis=0))
    resampled = np.full((0, len(classes)), np.nan)
    if len(pair) > 1:
        parts = [_class_iou(sums) for sums in _resampled_sums(pair, samples, seed)]
        resampled = np.concatenate([part[:, 0] - part[:, 1] for part in parts])
    differences = {}
    for place, label in enumerate(classes):
        images, low, high = int(holding[place]), math.nan, math.nan
        if images > 1:
            low, high = _bounds(resampled[:, place], _expanded((1 - confidence) / 2, images))
        difference = float(whole[0, place] - whole[1, place])
        differences[int(label)] = PairedDifference(difference, low, high, images)
    return differences


def _per_image(counts: pd.DataFrame, classes: Sequence[int]) -> NDArray[np.float64]:
    """The table as an array of shape (images, classes, 3), images in the order of their ids.

    Float64 holds these integers and their sums exactly (below 2^53), and multiplies fast.
    """
    _require_sound(counts)
    ids, rows = np.unique(counts["image_id"].to_numpy(dtype=str), return_inverse=True)
    place = {int(one): index for index, one in enumerate(classes)}
    columns = counts["class_id"].map(place)
    chosen = columns.notna().to_numpy()
    dense = np.zeros((len(ids), len(place), len(PIXELS)))
    dense[rows[chosen], columns[chosen].to_numpy(dtype=np.int64)] = counts.loc[
        chosen, list(PIXELS)
    ].to_numpy(dtype=np.float64)
    return dense


def _paired(
    counts_a: pd.DataFrame, counts_b: pd.DataFrame, classes: Sequence[int]
) -> NDArray[np.float64]:
    """Both tables as one array of shape (images, 2, classes, 3)."""
    _require_same_truth(counts_a, counts_b)
    return np.stack([_per_image(counts_a, classes), _per_image(counts_b, classes)], axis=1)


def _require_sound(counts: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in counts.columns]
    if missing:
        raise SegopsError(
            f"The table of counts lacks {', '.join(missing)}; expected {', '.join(COLUMNS)}. "
            "`dvc repro evaluate` makes it anew."
        )
    both, predicted, truth = (counts[name].to_numpy() for name in PIXELS)
    wrong = (both < 0) | (both > predicted) | (both > truth)
    wrong |= counts.duplicated(["image_id", "class_id"]).to_numpy()
    if wrong.any():
        images = sorted(set(counts.loc[wrong, "image_id"]))
        raise SegopsError(
            f"The table of counts contradicts itself for {', '.join(images[:10])}: expected one "
            "row an image and class, and 0 <= intersection <= predicted and truth. "
            "`dvc repro --force --single-item evaluate` makes it anew."
        )


def _require_same_truth(counts_a: pd.DataFrame, counts_b: pd.DataFrame) -> None:
    _require_sound(counts_a)
    _require_sound(counts_b)
    keys = ["image_id", "image_sha256", "class_id", "truth"]
    rows_a, rows_b = (
        set(counts.loc[counts["truth"] > 0, keys].itertuples(index=False, name=None))
        for counts in (counts_a, counts_b)
    )
    differing = sorted({str(row[0]) for row in rows_a ^ rows_b})
    if differing:
        shown = ", ".join(differing[:10]) + (", ..." if len(differing) > 10 else "")
        raise SegopsError(
            "The two models were not scored on the same images and masks: "
            f"{len(differing)} differ ({shown}). Score both on the same data."
        )


def _resampled_mious(images: NDArray[np.float64], samples: int, seed: int) -> NDArray[np.float64]:
    """MIoU of every resample, shape (samples, models), from (images, models, classes, 3) counts."""
    sums = _resampled_sums(images, samples, seed)
    return np.concatenate([miou(*_pixels(one)) for one in sums])


def _resampled_sums(
    images: NDArray[np.float64], samples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Summed counts of some resamples at a time, shape (resamples, models, classes, 3).

    All models see the same draws. How often each image is drawn is multinomial, so that the sums of
    many resamples are one matrix product; they are integers and exact in any order of summing.
    """
    number = len(images)
    flat = images.reshape(number, -1)
    random = np.random.default_rng(seed)
    for start in range(0, samples, RESAMPLES_AT_ONCE):
        some = min(RESAMPLES_AT_ONCE, samples - start)
        times = random.multinomial(number, np.full(number, 1 / number), size=some)
        sums = times.astype(np.float64) @ flat
        yield sums.reshape(some, *images.shape[1:])


def _class_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of summed counts of shape (..., 3); NaN where the truth does not hold the class."""
    pixels = _pixels(sums)
    return np.where(pixels.truth > 0, iou(*pixels), np.nan)


def _pixels(sums: NDArray[np.float64]) -> ClassPixels:
    return ClassPixels(sums[..., 0], sums[..., 1], sums[..., 2])


def _expanded(tail: float, images: int) -> float:
    """The tail probability at which to read the bootstrap's quantile for a nominal `tail`."""
    widening = math.sqrt(images / (images - 1))
    return float(ndtr(widening * stdtrit(images - 1, tail)))


def _bounds(resampled: NDArray[np.float64], tail: float) -> tuple[float, float]:
    kept = resampled[~np.isnan(resampled)]
    if kept.size == 0:
        return math.nan, math.nan
    low, high = np.quantile(kept, [tail, 1 - tail])
    return float(low), float(high)
