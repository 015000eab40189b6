"""The loss of a network against its teacher's class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .pixels import Pixels, ratio


class SoftTargets(nn.Module):
    """How far a network's softened class probabilities lie from those of its teacher.

    The Kullback-Leibler divergence of softmax(logits / T) from softmax(teacher's logits / T), in
    nats, averaged over the counted pixels and multiplied by T²: so the gradient has the same size
    whatever the temperature T.

    Source:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2,
        https://arxiv.org/abs/1503.02531

    Args:
        temperature: T, above 0.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (N, C, H, W), any float dtype.
            teacher: The teacher's logits, of the same shape, any float dtype.
            target: (N, H, W), uint8 or int64; only which pixels are void (255) is read.

        Returns:
            float32 scalar, on the logits' device; 0 where all pixels are void.
        """
        with torch.autocast(logits.device.type, enabled=False):
            pixels, soft = Pixels(logits, target), Pixels(teacher, target)
            own, wanted = (
                functional.log_softmax(one.logits / self.temperature, dim=1)
                for one in (pixels, soft)
            )
            apart = functional.kl_div(own, wanted, reduction="none", log_target=True).sum(dim=1)
            mean = ratio(apart.where(pixels.counted, 0).sum(), pixels.counted.sum())
            return self.temperature**2 * mean
