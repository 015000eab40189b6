"""The loss against labels that a network gave."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from segops.runtime.classes import VOID

from .pixels import Pixels, ratio


def pseudo_label_loss(logits: Tensor, labels: Tensor, trust: Tensor) -> Tensor:
    """Cross-entropy against pseudo-labels, weighted by the trust in each pixel's label.

    It is averaged over all counted pixels, also those without trust: the fewer labels are trusted,
    the less the loss weighs.

    Source:
        Threshold and average: French et al., "Semi-supervised semantic segmentation needs strong,
        varied perturbations", BMVC 2020, section 3.4, https://arxiv.org/abs/1906.01916

    Args:
        logits: (N, C, H, W), any float dtype.
        labels: (N, H, W), uint8 or int64, ids in 0..C-1 or 255 for void.
        trust: float32 (N, H, W) in [0, 1]; a pixel of trust 0 adds nothing to value and gradient.

    Returns:
        float32 scalar, on the logits' device; 0 where all pixels are void.
    """
    with torch.autocast(logits.device.type, enabled=False):
        pixels = Pixels(logits, labels)
        losses = functional.cross_entropy(
            pixels.logits, pixels.target, ignore_index=VOID, reduction="none"
        )
        return ratio((losses * trust.reshape(-1)).sum(), pixels.counted.sum())
