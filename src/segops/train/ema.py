"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from segops.runtime.networks.segmenter import Segmenter


class MovingAverage:
    """A copy of a network whose weights follow the original's.

    After update n (from 1) the average is ``d * average + (1 - d) * weights`` with
    ``d = min(decay, (1 + n) / (10 + n))``: whatever the decay, the initial random weights lose
    their influence within the first steps. Buffers (batch norm statistics) are averages already
    and are copied.

    Attributes:
        network: The copy; its parameters take no gradient.

    Source:
        Polyak and Juditsky, SIAM J. Control Optim. 30 (1992), in the exponential form of Tarvainen
        and Valpola (NIPS 2017); the warm-up is that of TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, network: Segmenter, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        # Detached, hence in the same memory.
        self._averages = [weight.detach() for weight in self.network.parameters()]
        self._weights = [weight.detach() for weight in network.parameters()]
        self._copies = list(self.network.buffers())
        self._buffers = list(network.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Include the original's weights, after a step of the optimiser."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._weights, share)
        if self._copies:
            torch._foreach_copy_(self._copies, self._buffers)

    def state(self) -> dict[str, Any]:
        """The state that :meth:`restore` takes."""
        return {"updates": self.updates, "network": self.network.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.updates = state["updates"]
        self.network.load_state_dict(state["network"])
