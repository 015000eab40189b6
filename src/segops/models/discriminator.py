"""The network that tells masks from predictions. It is part of a training, not of its model."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from segops.params.semi_supervised import LEAST_CROP
from segops.runtime.classes import VOID

WIDTH = 32
"""Channels of the first layer: half of the paper's, which was made for crops of 321 pixels."""


class Discriminator(nn.Sequential):
    """A fully convolutional discriminator: five convolutions of 4 x 4 with stride 2.

    It maps the class maps of a crop, float32 (N, C, H, W), to scores (N, 1, H / 32, W / 32), above
    0 where it takes them for a mask. H and W are 32 or more.

    Source:
        Hung et al., "Adversarial Learning for Semi-Supervised Semantic Segmentation", BMVC 2018,
        section 3, https://arxiv.org/abs/1802.07934, with half of the channels.

    Args:
        classes: Number of classes C.
    """

    def __init__(self, classes: int) -> None:
        widths = classes, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, stride=2, padding=1))
        assert 2 ** sum(isinstance(one, nn.Conv2d) for one in self) == LEAST_CROP


def prediction_maps(logits: Tensor, masks: Tensor) -> Tensor:
    """Class probabilities of logits (N, C, H, W), float32, and 0 on void of `masks`, (N, H, W).

    With void as in :func:`mask_maps` it does not tell predictions from masks.
    """
    return logits.float().softmax(dim=1) * (masks != VOID)[:, None]


def mask_maps(masks: Tensor, classes: int) -> Tensor:
    """Masks, uint8 (N, H, W), one-hot: float32 (N, C, H, W), 0 in all maps on void."""
    ids = torch.arange(classes, device=masks.device)[:, None, None]
    return (masks[:, None] == ids).float()
