"""The losses once more, in float64 and as their papers write them: pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID

Logits = NDArray[np.float64]
Labels = NDArray[np.uint8]
Pixel = tuple[int, NDArray[np.float64]]
"""True class and probabilities of a counted pixel."""


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def positions(target: Labels) -> Iterator[tuple[int, int, int]]:
    """Batch, row and column of every counted pixel."""
    for n, y, x in np.ndindex(*target.shape):
        if target[n, y, x] != VOID:
            yield n, y, x


def counted(logits: Logits, target: Labels) -> list[Pixel]:
    return [(int(target[n, y, x]), softmax(logits[n, :, y, x])) for n, y, x in positions(target)]


def smoothed(pixel: Pixel, weights: Sequence[float], smoothing: float) -> float:
    """Cross-entropy with the smoothed target, every class's term times the class's weight."""
    label, p = pixel
    total = 0.0
    for c in range(len(p)):
        share = (1 - smoothing) * (c == label) + smoothing / len(p)
        total -= share * weights[c] * math.log(p[c])
    return total


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(values) / sum(weights) if sum(weights) else 0.0


def cross_entropy(
    logits: Logits, target: Labels, w: Sequence[float], label_smoothing: float = 0.0
) -> float:
    pixels = counted(logits, target)
    return mean([smoothed(one, w, label_smoothing) for one in pixels], [w[c] for c, _ in pixels])


def ohem(
    logits: Logits,
    target: Labels,
    w: Sequence[float],
    label_smoothing: float = 0.0,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> float:
    """As ``OHEMPixelSampler``: sort, find the limit, keep what lies below."""
    pixels = sorted(counted(logits, target), key=lambda pixel: pixel[1][pixel[0]])
    at_least = min_kept * len(target)
    kept = [(c, p) for rank, (c, p) in enumerate(pixels) if rank < at_least or p[c] < threshold]
    return mean([smoothed(one, w, label_smoothing) for one in kept], [w[c] for c, _ in kept])


def focal(logits: Logits, target: Labels, w: Sequence[float], gamma: float = 2.0) -> float:
    pixels = counted(logits, target)
    values = [-w[c] * (1 - p[c]) ** gamma * math.log(p[c]) for c, p in pixels]
    return mean(values, [w[c] for c, _ in pixels])


def mean_over_present(pixels: Sequence[Pixel], score: object) -> float:
    present = sorted({label for label, _ in pixels})
    return mean([score(c) for c in present], [1.0] * len(present))  # type: ignore[operator]


def dice(logits: Logits, target: Labels) -> float:
    pixels = counted(logits, target)

    def one(c: int) -> float:
        both = sum(p[c] for label, p in pixels if label == c)
        return 1 - 2 * both / sum(p[c] ** 2 + (label == c) for label, p in pixels)

    return mean_over_present(pixels, one)


def jaccard(logits: Logits, target: Labels) -> float:
    pixels = counted(logits, target)

    def one(c: int) -> float:
        both = sum(p[c] * (label == c) for label, p in pixels)
        either = sum(p[c] + (label == c) - p[c] * (label == c) for label, p in pixels)
        return 1 - both / either

    return mean_over_present(pixels, one)


def tversky(logits: Logits, target: Labels, alpha: float = 0.5, beta: float = 0.5) -> float:
    pixels = counted(logits, target)

    def one(c: int) -> float:
        hit = sum(p[c] for label, p in pixels if label == c)
        false_positive = sum(p[c] for label, p in pixels if label != c)
        false_negative = sum(1 - p[c] for label, p in pixels if label == c)
        whole = hit + alpha * false_positive + beta * false_negative
        return 1 - hit / whole if whole else 1.0

    return mean_over_present(pixels, one)


def lovasz(logits: Logits, target: Labels) -> float:
    """The Lovász extension of the set function: the Jaccard loss of a set of wrong pixels."""
    pixels = counted(logits, target)

    def one(c: int) -> float:
        truth = {i for i, (label, _) in enumerate(pixels) if label == c}
        errors = [1 - p[c] if label == c else p[c] for label, p in pixels]
        wrong: set[int] = set()
        total = before = 0.0
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
            wrong.add(i)
            after = 1 - len(truth - wrong) / len(truth | wrong)
            total += errors[i] * (after - before)
            before = after
        return total

    return mean_over_present(pixels, one)


def boundary(logits: Logits, target: Labels, radius: int = 3) -> float:
    values, weights = [], []
    for n, y, x in positions(target):
        label = target[n, y, x]
        distance = math.inf
        for row, column in product(*map(range, target.shape[1:])):
            if target[n, row, column] not in (label, VOID):
                distance = min(distance, max(abs(row - y), abs(column - x)))
        weight = 1.0
        if distance <= 3 * radius:
            weight += 10 * math.exp(-(distance**2) / (2 * radius**2))
        values.append(-weight * math.log(softmax(logits[n, :, y, x])[label]))
        weights.append(weight)
    return mean(values, weights)


WEIGHTED = {"cross_entropy": cross_entropy, "ohem": ohem, "focal": focal}
PLAIN = {
    "dice": dice,
    "jaccard": jaccard,
    "lovasz": lovasz,
    "tversky": tversky,
    "boundary": boundary,
}


def reference(
    name: str,
    logits: Logits,
    target: Labels,
    class_weights: Sequence[float] | None = None,
    **options: float,
) -> float:
    """The value of the loss `name` for logits (N, C, H, W) and a target (N, H, W)."""
    if name in PLAIN:
        return PLAIN[name](logits, target, **options)  # type: ignore[operator, no-any-return]
    weights = [1.0] * logits.shape[1] if class_weights is None else class_weights
    return WEIGHTED[name](logits, target, weights, **options)  # type: ignore[operator, no-any-return]
