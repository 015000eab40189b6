"""Fully convolutional networks (FCN-32s, FCN-16s, FCN-8s), which SMP lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from .heads import resize


class FCN(nn.Module):
    """Score layers on encoder features, fused from coarse to fine.

    The coarsest features (stride 32) are scored; for FCN-16s and FCN-8s the scores are upsampled
    to the next finer features, whose own scores are added. The result is upsampled to the image.

    As in the paper, every score layer starts at zero. Unlike in the paper, the encoder is any
    encoder of SMP, batch norm included, and every upsampling is fixed bilinear (the paper learns
    the inner upsamplings, starting from bilinear).

    Args:
        encoder_name: An encoder with features of strides 8, 16 and 32.
        encoder_weights: As of :func:`segmentation_models_pytorch.encoders.get_encoder`.
        classes: Number of classes C.
        finest: Stride of the finest features that are scored: 32, 16 or 8.
        dropout: Probability of dropout on the coarsest features (0.5 in the paper's VGG).
        in_channels: Channels of the images.

    Source:
        Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation,
        CVPR 2015, section 4.2.
    """

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        finest: int,
        dropout: float = 0.0,
        in_channels: int = 3,
        **encoder_options: Any,
    ) -> None:
        super().__init__()
        self.encoder = get_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=5,
            weights=encoder_weights,
            **encoder_options,
        )
        self.levels = [level for level, stride in ((5, 32), (4, 16), (3, 8)) if stride >= finest]
        channels = self.encoder.out_channels
        self.dropout = nn.Dropout2d(dropout)
        self.scores = nn.ModuleList(nn.Conv2d(channels[level], classes, 1) for level in self.levels)
        for parameter in self.scores.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W).

        H and W are multiples of 32.
        """
        return self.decode(self.encoder(images), images.shape[-2:])

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) of the encoder's output for an image of that size."""
        coarse, *finer = self.levels
        logits: Tensor = self.scores[0](self.dropout(features[coarse]))
        for level, score in zip(finer, list(self.scores)[1:], strict=True):
            skip = score(features[level])
            logits = skip + resize(logits, skip.shape[-2:])
        return resize(logits, size)
