"""Losses that compare whole regions: Dice, Jaccard, Tversky.

All sum over the counted pixels of the batch and average over the classes that occur in its truth.
A class that the batch does not show has no say: its score would be 0 however small p is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pixels import Pixels, mean_over_present

SMALLEST = 1e-12


class Dice(nn.Module):
    """Dice loss: 1 - 2 Σpg / (Σp² + Σg²) with probabilities p and truth g (0 or 1), averaged.

    Source:
        Milletari, Navab, Ahmadi: V-Net, 3DV 2016, section 3 (two classes there, with squares in
        the denominator as here).
    """

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        squares = torch.where(pixels.counted[:, None], pixels.probabilities.square(), 0).sum(dim=0)
        score = 2 * pixels.hit / (squares + pixels.areas).clamp(min=SMALLEST)
        return mean_over_present(1 - score, pixels.areas)


class Jaccard(nn.Module):
    """Jaccard (soft IoU) loss: 1 - Σpg / (Σp + Σg - Σpg), averaged.

    Source:
        Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
        Segmentation", ISVC 2016, equations 3 to 5.
    """

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        union = pixels.summed + pixels.areas - pixels.hit
        return mean_over_present(1 - pixels.hit / union.clamp(min=SMALLEST), pixels.areas)


class Tversky(nn.Module):
    """Tversky loss: 1 - TP / (TP + α FP + β FN), averaged.

    TP is Σpg, FP is Σp(1 - g) and FN is Σ(1 - p)g. With α = β = 0.5 it is Dice without squares,
    with α = β = 1 Jaccard.

    Args:
        alpha: α, weight of false positives, 0 or more.
        beta: β, weight of false negatives, 0 or more; a larger one raises recall.

    Source:
        Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully
        convolutional deep networks", MLMI 2017, equation 2.
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        positives = pixels.summed - pixels.hit
        negatives = pixels.areas - pixels.hit
        whole = pixels.hit + self.alpha * positives + self.beta * negatives
        return mean_over_present(1 - pixels.hit / whole.clamp(min=SMALLEST), pixels.areas)
