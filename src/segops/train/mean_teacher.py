"""The mean teacher: the moving average of the weights labels images that have no masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segops.augment.policy import sample_seed
from segops.models.losses import pseudo_label_loss
from segops.runtime.classes import VOID
from segops.train.ranks import share_statistics
from segops.train.unlabelled import unlabelled_seed

MIXED = 0.5
"""Share of a view's area that comes from another view of the batch."""


class MeanTeacher:
    """Labels the weak view of images without masks, for the network that sees the strong view.

    In the strong view a rectangle of half its area comes from the batch's next image, with the
    labels of its place (CutMix): without that, consistency gains little in segmentation. A batch of
    one image has no next one.

    Source:
        Tarvainen and Valpola, "Mean teachers are better role models", NIPS 2017,
        https://arxiv.org/abs/1703.01780; CutMix and threshold: French et al., BMVC 2020,
        https://arxiv.org/abs/1906.01916

    Args:
        network: The moving average's network.
        confidence: Probability from which on a prediction is a pseudo-label, in [0, 1).
        seed: ``train.seed``.
        fabric: Of :func:`segops.train.hardware.build_fabric`.
    """

    def __init__(self, network: nn.Module, confidence: float, seed: int, fabric: Any) -> None:
        self.network = network.eval()
        self.confidence = confidence
        self.seed = unlabelled_seed(seed)
        self.fabric = fabric
        self._draws = np.random.default_rng(0)

    def begin(self, number: int) -> None:
        """Begin the step after `number` steps: all that it draws is a function of it and the rank.

        The ranks take the statistics of rank zero, the only ones that a checkpoint holds.
        """
        share_statistics(self.network, self.fabric)
        self._draws = np.random.default_rng(
            sample_seed(self.seed, number, -2 - self.fabric.global_rank)
        )

    def loss(
        self, model: Any, weak: Tensor, strong: Tensor, padding: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `model` on some images.

        Args:
            model: The network in training, wrapped.
            weak: Their weak views, uint8 (N, B, h, w).
            strong: Their strong views, of the same geometry.
            padding: uint8 (N, h, w), 255 beyond the image's border.

        Returns:
            The loss, and the figures of the learning curves.
        """
        with torch.no_grad(), self.fabric.autocast():
            predicted = self.network(weak)
        probability, labels = predicted.float().softmax(dim=1).max(dim=1)
        labels = labels.where(padding != VOID, VOID)
        trust = probability.where(probability >= self.confidence, 0)
        taken = self._rectangles(weak).to(weak.device)
        strong = _mixed(strong, taken[:, None])
        labels, trust = _mixed(labels, taken), _mixed(trust, taken)
        loss = pseudo_label_loss(model(strong), labels, trust)
        counted = labels != VOID
        share = (counted & (trust > 0)).sum() / counted.sum().clamp(min=1)
        return loss, {"pseudo_label_loss": loss.detach(), "confident_share": share}

    def _rectangles(self, images: Tensor) -> Tensor:
        """Where each image shows the next one: bool (N, h, w), a rectangle of half the area."""
        height, width = images.shape[-2:]
        inside = torch.zeros(len(images), height, width, dtype=torch.bool)
        for one in inside:
            share = math.exp(self._draws.uniform(math.log(MIXED), 0))
            rows, columns = round(height * share), round(width * MIXED / share)
            top, left = (
                int(self._draws.integers(0, free + 1)) for free in (height - rows, width - columns)
            )
            one[top : top + rows, left : left + columns] = True
        return inside


def _mixed(values: Tensor, taken: Tensor) -> Tensor:
    """The values of each image, but those of the next one where they are `taken`."""
    return torch.where(taken, values.roll(-1, dims=0), values)
