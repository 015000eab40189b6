"""The loss of a discriminator, and of who wants to deceive it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from segops.runtime.classes import VOID

from .pixels import ratio


def judgement_loss(scores: Tensor, masks: Tensor, *, is_mask: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's scores, averaged over the counted pixels.

    A score of the discriminator's coarser grid counts by the share of its cell that is not void.

    Source:
        Luc et al., "Semantic Segmentation using Adversarial Networks", 2016, equations 1 to 3,
        https://arxiv.org/abs/1611.08408; a score for each place as in Hung et al., BMVC 2018.

    Args:
        scores: float32 (N, 1, h, w): above 0 where the discriminator takes a map for a mask.
        masks: uint8 (N, H, W); only which pixels are void (255) is read.
        is_mask: What the scores should say.

    Returns:
        float32 scalar; 0 where all pixels are void.
    """
    counted = (masks != VOID).float()[:, None]
    shares = functional.adaptive_avg_pool2d(counted, (scores.shape[-2], scores.shape[-1]))
    wanted = torch.full_like(scores, float(is_mask))
    losses = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    return ratio((losses * shares).sum(), shares.sum())
