"""What a network of queries says about a batch: each query is a mask and the class of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .heads import resize

LEAST_SCORE = 1e-8
"""Scores are raised to this before their logarithm is taken."""


class MaskQueries(NamedTuple):
    """Predictions of Q queries, the last one at the end.

    Attributes:
        masks: Logits of each query's mask, (N, Q, h, w) each.
        classes: Logits of each query's class, (N, Q, C + 1) each; the last class is `no object`.
        cell: Side of a mask's cell, in pixels of the padded image.
    """

    masks: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]
    cell: int


def class_logits(masks: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits of the classes at every pixel, from one prediction of the queries.

    A class's score at a pixel is the sum over the queries of the probability of that class times
    the probability of the mask, sigmoid of the upsampled logits. A logit is the logarithm of the
    score, so that softmax gives the scores as shares of their sum.

    Args:
        masks: As in :class:`MaskQueries`, (N, Q, h, w).
        classes: As in :class:`MaskQueries`, (N, Q, C + 1).
        size: Height and width of the image.

    Returns:
        (N, C, *size), float32, at most log Q.

    Source:
        Cheng et al.: Per-Pixel Classification is Not All You Need for Semantic Segmentation.
        NeurIPS 2021, section 3.4, semantic inference.
    """
    # In half precision the least score is 0, whose logarithm is infinite. Torch has no autocast for
    # the device `meta`, on which the table of what works with what is made.
    device = "cpu" if masks.is_meta else masks.device.type
    with torch.autocast(device, enabled=False):
        inside = resize(masks.float(), size).sigmoid()
        probabilities = classes.float().softmax(dim=-1)[..., :-1]
        scores = torch.einsum("nqc,nqhw->nchw", probabilities, inside)
        return scores.clamp(min=LEAST_SCORE).log()
