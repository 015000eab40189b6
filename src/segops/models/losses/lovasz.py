"""Lovász-softmax: the convex surrogate of the mean IoU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pixels import Pixels, mean_over_present


class Lovasz(nn.Module):
    """Lovász-softmax over the counted pixels of the batch, averaged over the classes in its truth.

    The errors of a class (1 - p where it is true, p elsewhere), the largest first, are each
    multiplied by what its pixel adds to the Jaccard loss of the pixels before it.

    The reference accumulates in float32, which stops counting beyond 16.8 million pixels and has no
    deterministic kernel on CUDA (`torch.cumsum` of floats); whole numbers have both.

    Source:
        Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, equations 8 to 12 and
        algorithm 1; ``lovasz_softmax(classes="present", per_image=False)`` of their
        implementation.
    """

    def forward(self, pixels: Pixels) -> Tensor:
        """The loss of a batch, float32 ()."""
        errors = torch.where(pixels.truth, 1 - pixels.probabilities, pixels.probabilities)
        errors = torch.where(pixels.counted[:, None], errors, 0)
        slopes = _slopes(errors.detach(), pixels)
        # Summed along pixels that lie one after the other in memory.
        return mean_over_present((errors.t() * slopes).sum(dim=1), pixels.areas)


@torch.no_grad()
def _slopes(errors: Tensor, pixels: Pixels) -> Tensor:
    """The loss's derivative with respect to each error, float32 (C, P); 0 where it has no say."""
    slopes = torch.zeros(errors.shape[::-1], device=errors.device)
    absent = [False] * len(slopes)
    if errors.device.type == "cpu":  # elsewhere the question would wait for the device
        absent = (pixels.areas == 0).tolist()
    for number, slope in enumerate(slopes):
        if absent[number]:
            continue
        # Void after all others, where it changes no count that matters.
        key = torch.where(pixels.counted, errors[:, number], -1)
        order = key.argsort(descending=True, stable=True)
        slope[order] = _jaccard_steps(pixels.truth[:, number][order])
    return slopes


def _jaccard_steps(truth: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss, float32 (P,), for `truth`, bool (P,), in order."""
    found = truth.cumsum(0, dtype=torch.int64)
    passed = torch.arange(1, len(truth) + 1, device=truth.device)
    missed = found[-1] - found
    union = missed + passed
    losses = 1 - missed.double() / union.clamp(min=1)
    return torch.diff(losses, prepend=losses.new_zeros(1)).float()
