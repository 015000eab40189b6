"""Heads on the features of an encoder, as in MMSegmentation.

Batch norm and ReLU follow every convolution. Convolutions are initialised Kaiming normal (fan out),
the classifier normal with standard deviation 0.01. Bilinear resizing aligns no corners.

Source:
    MMSegmentation 1.x, ``mmseg/models/decode_heads``, and ``ConvModule`` and
    ``DepthwiseSeparableConvModule`` of mmcv.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing of (N, C, h, w) to (N, C, H, W), corners not aligned."""
    return functional.interpolate(values, size=list(size), mode="bilinear", align_corners=False)


def conv_block(
    in_channels: int, channels: int, kernel: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(
        in_channels,
        channels,
        kernel,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def separable_block(in_channels: int, channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 depthwise, then 1x1 pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        conv_block(in_channels, in_channels, 3, dilation, groups=in_channels),
        conv_block(in_channels, channels, 1),
    )


def classifier(channels: int, classes: int) -> nn.Conv2d:
    """The 1x1 convolution to one score per class."""
    conv = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class FCNHead(nn.Module):
    """3x3 convolutions, dropout, classifier; on one feature map: ``FCNHead`` of MMSegmentation.

    Args:
        in_channels: Channels of the features.
        classes: Number of classes C.
        channels: Channels of every convolution.
        convs: Number of convolutions before the concatenation.
        concat_input: Join the features with the convolved features and convolve once more.
        dropout: Probability of dropping a channel before the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        channels: int = 512,
        convs: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * convs
        self.convs = nn.Sequential(
            *(conv_block(before, after, 3) for before, after in pairwise(widths))
        )
        self.merge = conv_block(in_channels + channels, channels, 3) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C, h, w) of features (N, in_channels, h, w)."""
        convolved: Tensor = self.convs(features)
        if self.merge is not None:
            convolved = self.merge(torch.cat([features, convolved], dim=1))
        scores: Tensor = self.classifier(self.dropout(convolved))
        return scores


def auxiliary_head(in_channels: int, classes: int) -> FCNHead:
    """The auxiliary head of the published recipes: one convolution of 256 channels, dropout 0.1."""
    return FCNHead(in_channels, classes, 256, convs=1, concat_input=False)


class PSPHead(nn.Module):
    """Pyramid pooling: averages over grids of several sizes, joined with the features.

    `pool_scales` are the cells along a side of each grid; other arguments as of :class:`FCNHead`.

    Source:
        Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017; ``PSPHead`` of MMSegmentation.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), conv_block(in_channels, channels, 1))
            for scale in pool_scales
        )
        self.merge = conv_block(in_channels + len(pool_scales) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C, h, w) of features (N, in_channels, h, w)."""
        size = features.shape[-2:]
        pooled = [resize(pool(features), size) for pool in self.pools]
        merged = self.merge(torch.cat([features, *pooled], dim=1))
        scores: Tensor = self.classifier(self.dropout(merged))
        return scores


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: convolutions of several dilations and the image's mean.

    Args:
        in_channels: Channels of the features.
        channels: Channels of every branch and of the output.
        dilations: A branch for each; dilation 1 is a 1x1 convolution, the others are 3x3.
        separable: Build the branches' 3x3 convolutions as separable ones.

    Source:
        Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
        section 3.3.
    """

    def __init__(
        self, in_channels: int, channels: int, dilations: Sequence[int], separable: bool
    ) -> None:
        super().__init__()
        wide = separable_block if separable else partial(conv_block, kernel=3)
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv_block(in_channels, channels, 1)
        )
        self.branches = nn.ModuleList(
            conv_block(in_channels, channels, 1)
            if dilation == 1
            else wide(in_channels, channels, dilation=dilation)
            for dilation in dilations
        )
        self.merge = conv_block((len(dilations) + 1) * channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """The merged branches (N, channels, h, w) of features (N, in_channels, h, w)."""
        branches = [resize(self.image_pool(features), features.shape[-2:])]
        branches += [branch(features) for branch in self.branches]
        merged: Tensor = self.merge(torch.cat(branches, dim=1))
        return merged


class ASPPHead(nn.Module):
    """ASPP, dropout, classifier: the head of DeepLabV3, ``ASPPHead`` of MMSegmentation.

    Its arguments are those of :class:`ASPP` and :class:`FCNHead`.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        channels: int = 512,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pyramid = ASPP(in_channels, channels, dilations, separable=False)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C, h, w) of features (N, in_channels, h, w)."""
        scores: Tensor = self.classifier(self.dropout(self.pyramid(features)))
        return scores


class SeparableASPPHead(nn.Module):
    """Separable ASPP, then a decoder that adds features of stride 4: the head of DeepLabV3+.

    Args:
        in_channels: Channels of the coarsest features.
        fine_channels: Channels of the features of stride 4.
        reduced_channels: Channels to which the features of stride 4 are reduced; the other
            arguments as of :class:`ASPP` and :class:`FCNHead`.

    Source:
        Chen et al.: Encoder-Decoder with Atrous Separable Convolution, ECCV 2018;
        ``DepthwiseSeparableASPPHead`` of MMSegmentation (`c1` are the features of stride 4).
    """

    def __init__(
        self,
        in_channels: int,
        fine_channels: int,
        classes: int,
        channels: int = 512,
        reduced_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pyramid = ASPP(in_channels, channels, dilations, separable=True)
        self.reduce = conv_block(fine_channels, reduced_channels, 1)
        self.decode = nn.Sequential(
            separable_block(channels + reduced_channels, channels),
            separable_block(channels, channels),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, classes)

    def forward(self, features: Tensor, fine: Tensor) -> Tensor:
        """Scores (N, C, H / 4, W / 4) of the coarsest and the `fine` features of that size."""
        reduced = self.reduce(fine)
        coarse = resize(self.pyramid(features), reduced.shape[-2:])
        decoded = self.decode(torch.cat([coarse, reduced], dim=1))
        scores: Tensor = self.classifier(self.dropout(decoded))
        return scores
