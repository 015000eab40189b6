"""The learning-rate range test: the loss while the learning rate rises.

Source:
    Smith: Cyclical Learning Rates for Training Neural Networks, WACV 2017, section 3.3; the rate
    rises exponentially, as in fastai by Gugger and Howard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segops.data.selection_split import selection_split
from segops.params.file import Params
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.train.engine import Engine
from segops.train.hardware import build_fabric, choose_threads, choose_workers, reproducible
from segops.train.job import Job, on_images
from segops.train.loop import batches_of, build_samples
from segops.train.unlabelled import unlabelled_batches
from segops.tune.plots import write_range_picture
from segops.tune.setup import build_trial, on_one_device, open_store, scratch_directory

PICTURE = Path("reports/learning_rate.png")
WINDOW = 0.05
"""Half-width of the smoothing window, as a share of the sweep."""
SAFETY = 10.0
"""The cautious suggestion is this factor below the rate at which the loss diverges."""
DIVERGED = 4.0
"""The sweep ends where the loss is this many times the smallest loss so far."""


@dataclass(frozen=True)
class RangeTest:
    """The result of a sweep.

    Attributes:
        rates: Learning rates of the steps that were taken, rising.
        losses: The loss of each step.
        smoothed: Weighted mean of the losses around each step.
        steepest: Where the smoothed loss falls fastest per factor of the rate, if it falls.
        divergence: The first rate, after the smallest smoothed loss, at which the loss has risen by
            half of its fall, if it has.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    divergence: float | None

    @property
    def cautious(self) -> float | None:
        """A factor of :data:`SAFETY` below the divergence."""
        return None if self.divergence is None else self.divergence / SAFETY

    @property
    def suggestion(self) -> float | None:
        """The steepest point, never less than a factor of two below divergence; two digits."""
        if self.steepest is None:
            return None
        limit = math.inf if self.divergence is None else self.divergence / 2
        return float(f"{min(self.steepest, limit):.1e}")


def range_test(
    root: Path, settings: Params, low: float, high: float, steps: int
) -> tuple[RangeTest, Path]:
    """Sweep the learning rate on the workspace's train data, and draw the curve.

    The network, the augmentation, the order of the images and the steps are those of a training.
    The outputs and the resume state of a training are not changed.

    Args:
        root: The workspace; its images are packed.
        settings: Its parameters.
        low: First learning rate.
        high: Last learning rate.
        steps: Optimiser steps.

    Returns:
        The result, and the plot's path.

    Raises:
        SegopsError: The limits are not valid, or the training cannot be built.
    """
    if not 0 < low < high:
        raise SegopsError(f"--low {low:g} --high {high:g}: expected 0 < low < high.")
    settings = on_one_device(settings)
    store = open_store(root)
    with scratch_directory(root) as scratch:
        job = build_trial(root, settings, store, scratch)
        result = analyse(*sweep(job, learning_rates(low, high, steps)))
    write_range_picture(root / PICTURE, result)
    return result, PICTURE


def learning_rates(low: float, high: float, steps: int) -> tuple[float, ...]:
    """`steps` learning rates from `low` to `high` in geometric progression."""
    return tuple(float(rate) for rate in np.geomspace(low, high, steps))


def sweep(job: Job, rates: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Train a step with each rate, until the loss diverges.

    Returns:
        The rates of the steps that were taken, and their losses; a loss that is not finite becomes
        infinity and is the last.
    """
    losses: list[float] = []
    best = math.inf
    for loss in _losses(job, rates):
        losses.append(loss if math.isfinite(loss) else math.inf)
        # A mean of five steps, so that a single hard batch does not end the sweep.
        recent = sum(losses[-5:]) / len(losses[-5:])
        best = min(best, recent) if len(losses) >= 5 else best
        if not math.isfinite(loss) or recent > DIVERGED * best:
            break
    return tuple(rates[: len(losses)]), tuple(losses)


def analyse(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Find the steepest descent and the divergence of a sweep's curve: rising rates, and losses."""
    # Infinite losses become a value above all finite losses.
    ceiling = DIVERGED * max(filter(math.isfinite, losses), default=1.0)
    smoothed = _smooth(np.minimum(np.asarray(losses, dtype=np.float64), ceiling))
    lowest = int(np.argmin(smoothed))
    slope = np.gradient(smoothed, np.log(rates)) if len(rates) > 1 else np.zeros(1)
    # The first means are over few steps, so their slope is noise.
    first = min(_half_window(len(rates)), lowest)
    steepest = first + int(np.argmin(slope[first : lowest + 1]))
    gained = smoothed[0] - smoothed[lowest]
    lost = np.flatnonzero(smoothed[lowest:] > smoothed[lowest] + max(gained, 0) / 2)
    diverges = lost.size > 0 and gained > 0
    return RangeTest(
        tuple(rates),
        tuple(losses),
        tuple(smoothed.tolist()),
        float(rates[steepest]) if gained > 0 and slope[steepest] < 0 else None,
        float(rates[lowest + lost[0]]) if diverges else None,
    )


def _losses(job: Job, rates: Sequence[float]) -> Iterator[float]:
    job = on_images(job)
    fabric, device, _ = build_fabric(job.params)
    with reproducible(device, choose_threads(job.hardware), job.params.deterministic):
        ids, _ = selection_split(job.store.ids("train"), job.params.selection_share)
        dataset, sampler = build_samples(job, ids)
        engine = Engine(job, fabric)
        engine.freeze_encoder(job.params.freeze_encoder_epochs > 0)
        engine.train_mode()
        workers = choose_workers(job.hardware, device)
        stream = batches_of(job, fabric, dataset, sampler, len(rates), (0, 0), workers)
        unlabelled = unlabelled_batches(job, fabric, len(rates), 0, 0)
        steps = track(zip(stream, rates, strict=False), "learning-rate range test", len(rates))
        for number, ((images, masks), rate) in enumerate(steps):
            yield float(engine.step(images, masks, number, rate, next(unlabelled)))


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The triangular mean around every step; unlike an exponential mean it does not lag."""
    half = _half_window(len(losses))
    window = np.bartlett(2 * half + 3)[1:-1]
    total = np.convolve(losses, window, mode="full")[half:-half]
    weight = np.convolve(np.ones_like(losses), window, mode="full")[half:-half]
    smoothed: NDArray[np.float64] = total / weight
    return smoothed


def _half_window(steps: int) -> int:
    return max(1, round(WINDOW * steps))
