"""Learning rates as functions of the optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every step: linear warm-up, then `poly`, `cosine`, `step` or `plateau`.

    Attributes:
        name: `poly`, `cosine`, `step` or `plateau`.
        peak: Learning rate at the end of the warm-up.
        floor: Smallest learning rate.
        warmup_steps: Steps of the warm-up; step k of it has (k + 1) / warmup_steps of the peak.
        total_steps: Steps of the whole training, warm-up included.
        power: Exponent of `poly`.
        drop_steps: Of `step`: steps between two drops, counted from the end of the warm-up.
        factor: Of `step`: factor of a drop.
    """

    name: str
    peak: float
    floor: float
    warmup_steps: int
    total_steps: int
    power: float
    drop_steps: int
    factor: float

    @classmethod
    def of(cls, params: TrainParams, steps_per_epoch: int) -> Schedule:
        """The schedule of ``params.yaml``.

        Raises:
            SegopsError: The warm-up is not shorter than ``train.iterations``.
        """
        total = params.iterations or params.epochs * steps_per_epoch
        warmup = round(params.warmup_epochs * steps_per_epoch)
        if warmup >= total:
            raise SegopsError(
                f"train.warmup_epochs: {params.warmup_epochs:g} makes {warmup} steps of "
                f"{steps_per_epoch} an epoch, which leaves none of train.iterations: {total}. "
                f"Set train.warmup_epochs to 0, or train.iterations to {warmup + 1} or more."
            )
        return cls(
            name=params.schedule,
            peak=params.lr,
            floor=params.min_lr,
            warmup_steps=warmup,
            total_steps=total,
            power=params.poly_power,
            drop_steps=params.step_epochs * steps_per_epoch,
            factor=params.step_factor,
        )

    def learning_rate(self, step: int, scale: float = 1.0) -> float:
        """The learning rate of a step.

        Args:
            step: Number of earlier optimiser steps, 0 or more.
            scale: :attr:`Plateau.scale`; 1 for the other schedules.

        Source:
            `poly`: Chen et al., DeepLab, TPAMI 2018, section 4.1: (1 - t)^power, down to the floor
            as in MMSegmentation. `cosine`: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5,
            without restarts.
        """
        if step < self.warmup_steps:
            rate = self.peak * (step + 1) / self.warmup_steps
        else:
            rate = self._after_warmup(step - self.warmup_steps)
        return max(rate * scale, self.floor)

    def _after_warmup(self, step: int) -> float:
        progress = min(step / max(self.total_steps - self.warmup_steps, 1), 1.0)
        if self.name == "poly":
            return self.floor + (self.peak - self.floor) * math.pow(1 - progress, self.power)
        if self.name == "cosine":
            wave = (1 + math.cos(math.pi * progress)) / 2
            return self.floor + (self.peak - self.floor) * wave
        if self.name == "step":
            drops = step // self.drop_steps
            return self.peak * math.pow(self.factor, drops)
        return self.peak


class Plateau:
    """Lowers the learning rate when the selection score has not risen for some epochs.

    Args:
        factor: Factor of a drop.
        patience: Epochs without gain before a drop; the count starts again after a drop.

    Attributes:
        scale: Product of the drops so far.
    """

    def __init__(self, factor: float, patience: int) -> None:
        self.factor = factor
        self.patience = patience
        self.scale = 1.0
        self._best = -math.inf
        self._waited = 0

    def update(self, score: float) -> None:
        """Count an epoch by its selection score; higher is better."""
        if score > self._best:
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self.scale *= self.factor
            self._waited = 0

    def state(self) -> dict[str, float]:
        """The state that :meth:`restore` takes."""
        return {"scale": self.scale, "best": self._best, "waited": float(self._waited)}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a :meth:`state`."""
        self.scale, self._best = state["scale"], state["best"]
        self._waited = int(state["waited"])
