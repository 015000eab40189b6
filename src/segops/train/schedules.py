"""Learning rates as functions of the optimiser step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every step: linear warm-up, then `poly`, `cosine`, `step` or `plateau`.

    Attributes:
        params: The parameters of the training.
        steps_per_epoch: Steps of an epoch.
        warmup_steps: Steps of the warm-up; step k of it has (k + 1) / warmup_steps of the peak.
        total_steps: Steps of the whole training, warm-up included.
    """

    params: TrainParams
    steps_per_epoch: int
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, params: TrainParams, steps_per_epoch: int) -> Schedule:
        """The schedule of ``params.yaml``.

        Raises:
            SegopsError: The warm-up is not shorter than the training.
        """
        total = params.iterations or params.epochs * steps_per_epoch
        warmup = round(params.warmup_epochs * steps_per_epoch)
        if warmup >= total:
            key, value, least = (
                ("iterations", total, warmup + 1)
                if params.iterations
                else ("epochs", params.epochs, warmup // steps_per_epoch + 1)
            )
            raise SegopsError(
                f"train.warmup_epochs: {params.warmup_epochs:g} makes {warmup} steps of "
                f"{steps_per_epoch} an epoch, which leaves none of train.{key}: {value}. "
                f"Set train.warmup_epochs to 0, or train.{key} to {least} or more."
            )
        return cls(params, steps_per_epoch, warmup, total)

    def learning_rate(self, step: int, scale: float = 1.0) -> float:
        """The learning rate after `step` steps; `scale` is :attr:`Plateau.scale`.

        Source:
            `poly`: Chen et al., DeepLab, TPAMI 2018, section 4.1: (1 - t)^power, down to the floor
            as in MMSegmentation. `cosine`: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5,
            without restarts.
        """
        if step < self.warmup_steps:
            rate = self.params.lr * (step + 1) / self.warmup_steps
        else:
            rate = self._after_warmup(step - self.warmup_steps)
        return max(rate * scale, self.params.min_lr)

    def ramp_up(self, step: int) -> float:
        """Share of the weights of losses on images without masks after `step` steps, in (0, 1].

        Source:
            Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017, appendix B.1:
            a sigmoid-shaped exp(-5 (1 - t)^2), https://arxiv.org/abs/1703.01780
        """
        steps = round(self.params.ramp_up_epochs * self.steps_per_epoch)
        return math.exp(-5 * (1 - min(step / steps, 1.0)) ** 2) if steps else 1.0

    def _after_warmup(self, step: int) -> float:
        params, peak, floor = self.params, self.params.lr, self.params.min_lr
        progress = min(step / max(self.total_steps - self.warmup_steps, 1), 1.0)
        if params.schedule == "poly":
            return floor + (peak - floor) * math.pow(1 - progress, params.poly_power)
        if params.schedule == "cosine":
            return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
        if params.schedule == "step":
            drops = step // (params.step_epochs * self.steps_per_epoch)
            return peak * math.pow(params.step_factor, drops)
        return peak


@dataclass
class Plateau:
    """Lowers the learning rate by `factor` after `patience` epochs without a gain in score.

    The count starts again after a drop. `scale` is the product of the drops so far.
    """

    factor: float
    patience: int
    scale: float = 1.0
    _best: float = -math.inf
    _waited: int = 0

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
        return asdict(self)

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a :meth:`state`."""
        vars(self).update(state)
