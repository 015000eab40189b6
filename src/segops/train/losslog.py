"""The losses of an epoch, and the check that all are finite, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segops.runtime.errors import SegopsError

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
        self._losses = torch.zeros(self.window, device=device)
        self._steps: list[Step] = []
        self._total = 0.0
        self._count = 0

    def add(self, loss: Tensor, step: Step) -> None:
        """Add the loss of a step, a scalar on the device; :meth:`check` when the window is full."""
        self._losses[len(self._steps)] = loss.detach()
        self._steps.append(step)
        if len(self._steps) == self.window:
            self.check()

    def check(self) -> None:
        """Check the losses since the last check.

        Raises:
            SegopsError: A loss is not finite; the message names the step, its learning rate and the
                ids of its images.
        """
        for value, step in zip(self._losses[: len(self._steps)].tolist(), self._steps, strict=True):
            if math.isfinite(value):
                self._total += value
                self._count += 1
                self._skipped = 0
            elif self._skipped < self.tolerated:
                self._skipped += 1
            else:
                raise diverged(f"the loss is {value}", step)
        self._steps = []

    def close(self) -> float:
        """Check all losses and return the mean of those since the last call."""
        self.check()
        mean = self._total / max(self._count, 1)
        self._total, self._count = 0.0, 0
        return mean

    def state(self) -> dict[str, float]:
        """Check all losses and return the state that :meth:`restore` takes."""
        self.check()
        return {"total": self._total, "count": self._count, "skipped": self._skipped}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a :meth:`state`."""
        self._total, self._count = state["total"], int(state["count"])
        self._skipped = int(state["skipped"])


def diverged(what: str, step: Step) -> SegopsError:
    """The error of a training that went wrong at `step`."""
    return SegopsError(
        f"Training diverged: {what} at step {step.number} (epoch {step.epoch}) with learning rate "
        f"{step.learning_rate:g}. Images of the batch: {', '.join(step.images())}. "
        "Lower train.lr, lengthen train.warmup_epochs, or set train.precision to fp32; "
        "then look at these images and their masks."
    )
