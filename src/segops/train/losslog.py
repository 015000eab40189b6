"""The losses of an epoch, and the check that all are finite, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segops.runtime.errors import SegopsError

LOSS = "train_loss"
"""Name of the loss that a training lowers."""

GPU_WINDOW = 50
"""Steps between two checks of a GPU's losses; each check waits for the device."""

FP16_TOLERATED = 20
"""Consecutive steps that may fail in fp16: after 20 halvings the scale 65,536 is below 1."""


@dataclass(frozen=True)
class Step:
    """A step of the optimiser; `number` and `epoch` count from 1.

    `images` returns the ids of the images in its batch; it is called only for an error.
    """

    number: int
    epoch: int
    learning_rate: float
    images: Callable[[], Sequence[str]]


class LossLog:
    """Keeps losses on the device and checks them in windows of several steps.

    On the CPU a window is one step, because there is no device to wait for. An error names the
    exact step, because the steps of a window are kept with its losses.

    Args:
        device: The device of the losses.
        window: Steps between two checks.
        tolerated: Consecutive losses that may be not finite and enter no mean. In fp16 the scaler
            skips a step that overflows and lowers its scale.
    """

    def __init__(self, device: torch.device, window: int | None = None, tolerated: int = 0) -> None:
        self.window = window or (1 if device.type == "cpu" else GPU_WINDOW)
        self.tolerated = tolerated
        self._skipped = 0
        self._device = device
        self._rows = torch.empty(0)
        self._names: tuple[str, ...] = ()
        self._steps: list[Step] = []
        self._totals: dict[str, float] = {LOSS: 0.0}
        self._count = 0

    def add(self, loss: Tensor, step: Step, parts: Mapping[str, Tensor] | None = None) -> None:
        """Add the loss of a step, a scalar on the device; :meth:`check` when the window is full.

        `parts` are further figures by their name, the same names at every step.
        """
        values = {LOSS: loss, **(parts or {})}
        if self._names != tuple(values):
            self._names = tuple(values)
            self._rows = torch.zeros(self.window, len(values), device=self._device)
        row = self._rows[len(self._steps)]
        if len(values) == 1:
            row[0] = loss.detach()
        else:
            row.copy_(torch.stack([value.detach().float() for value in values.values()]))
        self._steps.append(step)
        if len(self._steps) == self.window:
            self.check()

    def check(self) -> None:
        """Check the losses since the last check.

        Raises:
            SegopsError: A loss is not finite; the message names the step, its learning rate and the
                ids of its images.
        """
        for row, step in zip(self._rows[: len(self._steps)].tolist(), self._steps, strict=True):
            values = dict(zip(self._names, row, strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if not bad:
                for name, value in values.items():
                    self._totals[name] = self._totals.get(name, 0.0) + value
                self._count += 1
                self._skipped = 0
            elif self._skipped < self.tolerated:
                self._skipped += 1
            else:
                named = "loss" if bad[0] == LOSS else bad[0]
                raise diverged(f"the {named} is {values[bad[0]]}", step)
        self._steps = []

    def close(self) -> dict[str, float]:
        """Check all losses and return the means of those since the last call, by name."""
        self.check()
        means = {name: total / max(self._count, 1) for name, total in self._totals.items()}
        self._totals, self._count = dict.fromkeys(self._totals, 0.0), 0
        return means

    def state(self) -> dict[str, Any]:
        """Check all losses and return the state that :meth:`restore` takes."""
        self.check()
        return {"totals": dict(self._totals), "count": self._count, "skipped": self._skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self._totals, self._count = dict(state["totals"]), int(state["count"])
        self._skipped = int(state["skipped"])


def diverged(what: str, step: Step) -> SegopsError:
    """The error of a training that went wrong at `step`."""
    return SegopsError(
        f"Training diverged: {what} at step {step.number} (epoch {step.epoch}) with learning rate "
        f"{step.learning_rate:g}. Images of the batch: {', '.join(step.images())}. "
        "Lower train.lr, lengthen train.warmup_epochs, or set train.precision to fp32; "
        "then look at these images and their masks."
    )
