"""Losses over the counted pixels of a batch; void (255) counts in none.

Each takes logits of shape (N, C, H, W), any float dtype, and a target of shape (N, H, W), uint8 or
int64, with ids in 0..C-1 or 255, and returns a float32 scalar. It computes in float32 under
autocast. A batch that is all void gives 0 with zero gradient; void pixels have zero gradient, and
whatever void is added changes no value.

All are made of operations that have deterministic kernels on CUDA: one-dimensional cross-entropy
(the two-dimensional has none), sums, comparisons, a sort, and cumulative sums of whole numbers
(`torch.cumsum` of floats has no deterministic kernel). Nothing waits for the device.

:class:`MaskClassification` is the exception: it takes a network's queries in place of logits, and
its assignment waits for the device.
"""

from .adversarial import judgement_loss
from .build import LOSSES, Loss, build_loss
from .masks import MaskClassification
from .pseudo_labels import pseudo_label_loss
from .soft_targets import SoftTargets

__all__ = [
    "LOSSES",
    "Loss",
    "MaskClassification",
    "SoftTargets",
    "build_loss",
    "judgement_loss",
    "pseudo_label_loss",
]
