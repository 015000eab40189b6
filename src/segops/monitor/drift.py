"""Compares images with the champion's data: four tests, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segops.monitor.reference import Reference
from segops.monitor.statistics import (
    PERMUTATIONS,
    Values,
    holm,
    mmd_test,
    ranks_test,
    unusualness,
)
from segops.predict.observe import Observation, statistic_names
from segops.runtime.errors import SegopsError
from segops.words import counted

LOOK = "colour and sharpness"
FEATURES = "encoder features"
CLASSES = "class shares"
CONFIDENCE = "confidence"
TESTS = (LOOK, FEATURES, CLASSES, CONFIDENCE)
QUANTILES = (0.1, 0.5, 0.9)
REASONS = 3
"""Most statistics that are named of an unusual image."""
OUTSIDE = 3.0
"""Deviations from the middle beyond which a statistic of an image is named."""


@dataclass(frozen=True)
class Watched:
    """An image of the sample.

    Attributes:
        name: Its name, or how the log tells it.
        observation: What is observed of it.
        is_seen: Whether the model was trained on it.
    """

    name: str
    observation: Observation
    is_seen: bool = False


@dataclass(frozen=True)
class Change:
    """A statistic of the reference and of the sample.

    Attributes:
        name: The statistic, or the class.
        p: Its p-value, corrected for the number of statistics of its test.
        reference: Its quantiles :data:`QUANTILES` over the reference.
        sample: Those over the sample.
    """

    name: str
    p: float
    reference: tuple[float, float, float]
    sample: tuple[float, float, float]


@dataclass(frozen=True)
class Test:
    """The outcome of a test.

    Attributes:
        name: One of :data:`TESTS`.
        p: Its p-value.
        corrected: The p-value corrected for the number of tests (Holm).
        drifted: Whether the corrected p-value is at most the level.
        reference: Number of images of the reference.
        images: Number of images of the sample.
        changes: The statistics, the surest change first; empty of encoder features.
        discrepancy: Of encoder features, the squared maximum mean discrepancy.
    """

    name: str
    p: float
    corrected: float
    drifted: bool
    reference: int
    images: int
    changes: tuple[Change, ...] = ()
    discrepancy: float | None = None


@dataclass(frozen=True)
class Unusual:
    """An image that is unlike the reference.

    Attributes:
        name: Its name.
        score: Share of the reference, 0..1, that is less unusual.
        reasons: Words on its statistics that lie outside of the reference.
    """

    name: str
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """What a comparison found.

    Attributes:
        alpha: The level: the chance of an alarm where nothing changed.
        images: Number of images of the sample.
        tests: The tests that were made.
        left_out: The tests that could not be made, each with the reason.
        unusual: The images, the most unusual first.
    """

    alpha: float
    images: int
    tests: tuple[Test, ...]
    left_out: dict[str, str]
    unusual: tuple[Unusual, ...]

    @property
    def drifted(self) -> bool:
        """Whether any test found a drift."""
        return any(test.drifted for test in self.tests)


def compare(
    reference: Reference,
    sample: Sequence[Watched],
    class_names: Sequence[str],
    channels: int,
    alpha: float,
    least: int,
) -> Drift:
    """Compare a sample with the reference.

    Colour and sharpness are compared with train and val. What passes the network is compared with
    val alone, and without the images of the sample that the model was trained on: its confidence
    on these is higher than on new images, and its features may be others. Holm's correction holds
    the chance of any false alarm: each alarm costs a person's time or a training.

    Args:
        reference: The observations of the model's data.
        sample: The images, at least `least`.
        class_names: The model's classes.
        channels: Channels of an image.
        alpha: The level.
        least: Fewest images that a test takes on either side.
    """
    fresh = [one.observation for one in sample if not one.is_seen]
    left_out: dict[str, str] = {}
    raw: list[Test] = []
    # The smallest p-value must stay well below the level after the correction.
    permutations = max(PERMUTATIONS, round(5 * len(TESTS) / alpha) - 1)
    look = _statistics([*reference.train, *reference.val])
    raw.append(
        _ranks(
            LOOK,
            statistic_names(channels),
            look,
            _statistics([one.observation for one in sample]),
            permutations,
        )
    )
    reason = _unfit(reference, fresh, len(sample), least)
    if reason is not None:
        left_out = dict.fromkeys((FEATURES, CLASSES, CONFIDENCE), reason)
    else:
        raw.append(
            _ranks(CLASSES, class_names, _shares(reference.val), _shares(fresh), permutations)
        )
        names, confidence = _confidence([*reference.val, *fresh])
        own = len(reference.val)
        raw.append(_ranks(CONFIDENCE, names, confidence[:own], confidence[own:], permutations))
        points = _embeddings([*reference.val, *fresh])
        if points is None:
            left_out[FEATURES] = _without_features(reference, fresh)
        else:
            found = mmd_test(points[:own], points[own:], permutations)
            raw.append(
                Test(FEATURES, found.p, 1, False, own, len(fresh), discrepancy=found.squared)
            )
    raw.sort(key=lambda test: TESTS.index(test.name))
    corrected = holm([test.p for test in raw])
    tests = tuple(
        Test(
            test.name, test.p, now, now <= alpha, test.reference, test.images, test.changes,
            test.discrepancy,
        )
        for test, now in zip(raw, corrected, strict=True)
    )  # fmt: skip
    unusual = _unusual(reference, sample, statistic_names(channels))
    return Drift(alpha, len(sample), tests, left_out, unusual)


def _unfit(
    reference: Reference, fresh: Sequence[Observation], images: int, least: int
) -> str | None:
    """The reason why predictions cannot be compared, or None."""
    if any(one.predicted is None for one in fresh):
        return "the images were not predicted"
    if len(reference.val) < least:
        return f"val holds {counted(len(reference.val), 'image')}, fewer than {least}"
    if len(fresh) < least:
        return (
            f"the model was trained on {images - len(fresh)} of the {images} images, and "
            f"{len(fresh)} others are fewer than {least}"
        )
    return None


def _without_features(reference: Reference, fresh: Sequence[Observation]) -> str:
    """The reason why features cannot be compared, where some image has none."""
    if _embeddings(reference.val) is None:
        return "the model's bundle gives no access to its network"
    without = sum(_embeddings([one]) is None for one in fresh)
    return (
        f"an export of the model predicted {without} of the {counted(len(fresh), 'image')}, and "
        "an export gives no access to its network"
    )


def _ranks(
    name: str, columns: Sequence[str], reference: Values, sample: Values, permutations: int
) -> Test:
    tested = ranks_test(reference, sample, permutations)
    quantiles = [
        np.quantile(values, QUANTILES, axis=0).T.tolist() for values in (reference, sample)
    ]
    changes = [
        Change(column, float(p), tuple(before), tuple(now))
        for column, p, before, now in zip(columns, tested.columns, *quantiles, strict=True)
    ]
    changes.sort(key=lambda one: one.p)
    return Test(name, tested.p, 1, False, len(reference), len(sample), tuple(changes))


def _statistics(observations: Sequence[Observation]) -> Values:
    return np.array([one.statistics for one in observations], np.float64)


def _shares(observations: Sequence[Observation]) -> Values:
    return np.array([one.predicted.shares for one in observations if one.predicted], np.float64)


def _confidence(observations: Sequence[Observation]) -> tuple[list[str], Values]:
    """The names of the columns, and the confidence and, where all have it, the entropy."""
    kept = [one.predicted for one in observations if one.predicted]
    entropies = [one.entropy for one in kept if one.entropy is not None]
    columns = [[one.confidence for one in kept]]
    if len(entropies) == len(kept):
        columns.append(entropies)
    return ["confidence", "entropy"][: len(columns)], np.array(columns, np.float64).T


def _embeddings(observations: Sequence[Observation]) -> Values | None:
    kept = [
        one.predicted.embedding
        for one in observations
        if one.predicted is not None and one.predicted.embedding is not None
    ]
    if len(kept) < len(observations):
        return None
    if len({len(one) for one in kept}) > 1:
        raise SegopsError(
            "The features of the images differ in their number: the prediction log was changed. "
            "Remove its file."
        )
    return np.array(kept, np.float64)


def _unusual(
    reference: Reference, sample: Sequence[Watched], names: Sequence[str]
) -> tuple[Unusual, ...]:
    """The images of the sample, the most unusual first, by their features or else their look."""
    observed = [one.observation for one in sample]
    look = _statistics([*reference.train, *reference.val])
    points = _embeddings([*reference.val, *observed])
    own = len(reference.val)
    if points is None or own < 2:
        own = len(look)
        points = np.concatenate([look, _statistics(observed)])
    scores = unusualness(points[:own], points[own:])
    low, middle, high = np.quantile(look, (0.25, 0.5, 0.75), axis=0)
    # Of a normal distribution, the quartiles lie 1.35 deviations apart.
    deviation = np.maximum((high - low) / 1.35, 1e-3)
    found = []
    for one, score in zip(sample, scores, strict=True):
        off = (np.array(one.observation.statistics) - middle) / deviation
        order = np.argsort(-np.abs(off))[:REASONS]
        reasons = tuple(
            f"{names[index]} {'above' if off[index] > 0 else 'below'} the usual"
            for index in order
            if abs(off[index]) > OUTSIDE
        )
        found.append((float(np.abs(off).max()), Unusual(one.name, float(score), reasons)))
    found.sort(key=lambda pair: (-pair[1].score, -pair[0], pair[1].name))
    return tuple(one for _, one in found)
