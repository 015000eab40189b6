"""PIDNet: three branches for details, context and boundaries, for real-time segmentation.

A branch keeps details at stride 8, one gathers context down to stride 64, and one follows the
boundaries at stride 8. In the end the boundaries decide where details count and where context does.
With 32 channels at the start it is PIDNet-S, with 64 PIDNet-M.

The heads that the publication adds in training (of details and of boundaries) are left out: the
configured loss trains the output alone.

Source:
    Xu, Xiong, Bhattacharyya: PIDNet: A Real-time Semantic Segmentation Network Inspired by PID
    Controllers. CVPR 2023, figures 4 to 6; numbers of blocks and channels as in its published code
    (MIT licence).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .heads import classifier, resize

POOLS = ((5, 2), (9, 4), (17, 8))
"""Kernel and stride of the averages over parts of the features, in cells of stride 64."""


class PIDNet(nn.Module):
    """Proportional, integral and derivative branches, fused.

    Args:
        classes: Number of classes C.
        width: Channels W of the first convolutions; 32 is PIDNet-S, 64 PIDNet-M.
        pyramid: Channels of each part of the pyramid pooling.
        channels: Channels of the head.
        dropout: Probability of dropping a channel before the classifier.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        classes: int,
        width: int = 32,
        pyramid: int = 96,
        channels: int = 128,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        fine = 2 * width
        self.stem = nn.Sequential(
            *_normed(in_channels, width, 3, stride=2), nn.ReLU(inplace=True),
            *_normed(width, width, 3, stride=2), nn.ReLU(inplace=True),
            *_stage(width, width, 2), nn.ReLU(inplace=True),
            *_stage(width, fine, 2, stride=2), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.context3 = nn.Sequential(*_stage(fine, 4 * width, 3, 2), nn.ReLU(inplace=True))
        self.context4 = nn.Sequential(*_stage(4 * width, 8 * width, 3, 2), nn.ReLU(inplace=True))
        self.context5 = nn.Sequential(
            _bottleneck(8 * width, 8 * width, stride=2), _bottleneck(16 * width, 8 * width)
        )
        self.detail3 = nn.Sequential(*_stage(fine, fine, 2))
        self.detail4 = nn.Sequential(nn.ReLU(), *_stage(fine, fine, 2))
        self.detail5 = nn.Sequential(nn.ReLU(), _bottleneck(fine, fine))
        self.squeeze3 = nn.Sequential(*_normed(4 * width, fine, 1))
        self.squeeze4 = nn.Sequential(*_normed(8 * width, fine, 1))
        self.guide3 = Guidance(fine, width)
        self.guide4 = Guidance(fine, width)
        self.boundary3 = _basic(fine, width)
        self.boundary4 = nn.Sequential(nn.ReLU(), _bottleneck(width, width))
        self.boundary5 = nn.Sequential(nn.ReLU(), _bottleneck(fine, fine))
        self.change3 = nn.Sequential(*_normed(4 * width, width, 3))
        self.change4 = nn.Sequential(*_normed(8 * width, fine, 3))
        self.pyramid = PyramidPooling(16 * width, pyramid, 4 * width)
        self.fusion = Fusion(4 * width)
        self.head = nn.Sequential(
            *_activated(4 * width, channels, 3),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            classifier(channels, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W).

        H and W are multiples of 8.
        """
        start = self.stem(images)
        size = start.shape[-2:]
        third = self.context3(start)
        detail = self.guide3(self.detail3(start), self.squeeze3(third))
        boundary = self.boundary3(start) + resize(self.change3(third), size)
        fourth = self.context4(third)
        detail = self.guide4(self.detail4(detail), self.squeeze4(fourth))
        boundary = self.boundary4(boundary) + resize(self.change4(fourth), size)
        context = resize(self.pyramid(self.context5(fourth)), size)
        fused = self.fusion(self.detail5(detail), context, self.boundary5(boundary))
        return resize(self.head(fused), images.shape[-2:])


class Residual(nn.Module):
    """Layers beside a shortcut, which is a convolution where the shapes differ; no ReLU behind."""

    def __init__(self, layers: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """The sum of both."""
        added: Tensor = self.layers(features) + self.shortcut(features)
        return added


class Guidance(nn.Module):
    """Context that enters the details where the two agree (Pag).

    Args:
        channels: Channels of both.
        hidden: Channels in which they are compared.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.of_detail = nn.Sequential(*_normed(channels, hidden, 1))
        self.of_context = nn.Sequential(*_normed(channels, hidden, 1))

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Details (N, D, h, w) that took up context (N, D, h', w')."""
        size = detail.shape[-2:]
        product = self.of_detail(detail) * resize(self.of_context(context), size)
        agreement = product.sum(dim=1, keepdim=True).sigmoid()
        guided: Tensor = (1 - agreement) * detail + agreement * resize(context, size)
        return guided


class Fusion(nn.Module):
    """Details at boundaries, context elsewhere (Light-Bag)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_detail = nn.Sequential(*_normed(channels, channels, 1))
        self.of_context = nn.Sequential(*_normed(channels, channels, 1))

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Features of the shape that all three have, (N, D, h, w)."""
        at_boundary = boundary.sigmoid()
        of_detail: Tensor = self.of_detail((1 - at_boundary) * context + detail)
        of_context: Tensor = self.of_context(context + at_boundary * detail)
        return of_detail + of_context


class PyramidPooling(nn.Module):
    """Averages over parts of several sizes, side by side (PAPPM).

    Args:
        in_channels: Channels of the features.
        hidden: Channels of each part.
        channels: Channels of the output.
    """

    def __init__(self, in_channels: int, hidden: int, channels: int) -> None:
        super().__init__()
        averages = [nn.AvgPool2d(kernel, stride, kernel // 2) for kernel, stride in POOLS]
        self.whole = nn.Sequential(*_activated(in_channels, hidden, 1))
        self.parts = nn.ModuleList(
            nn.Sequential(average, *_activated(in_channels, hidden, 1))
            for average in (*averages, nn.AdaptiveAvgPool2d(1))
        )
        count = len(self.parts)
        self.between = nn.Sequential(*_activated(count * hidden, count * hidden, 3, groups=count))
        self.join = nn.Sequential(*_activated((count + 1) * hidden, channels, 1))
        self.shortcut = nn.Sequential(*_activated(in_channels, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Context (N, channels, h, w) of features (N, in_channels, h, w)."""
        size = features.shape[-2:]
        whole = self.whole(features)
        parts = [resize(part(features), size) + whole for part in self.parts]
        joined = torch.cat([whole, self.between(torch.cat(parts, dim=1))], dim=1)
        context: Tensor = self.join(joined) + self.shortcut(features)
        return context


def _convolution(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias that keeps the size, but for its stride."""
    convolution = nn.Conv2d(
        in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _normed(in_channels: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    return [_convolution(in_channels, channels, kernel, stride), nn.BatchNorm2d(channels)]


def _activated(in_channels: int, channels: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    """Batch norm, ReLU and convolution."""
    convolution = _convolution(in_channels, channels, kernel, groups=groups)
    return [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), convolution]


def _residual(in_channels: int, channels: int, stride: int, layers: list[nn.Module]) -> Residual:
    same = stride == 1 and in_channels == channels
    shortcut = nn.Identity() if same else nn.Sequential(*_normed(in_channels, channels, 1, stride))
    return Residual(nn.Sequential(*layers), shortcut)


def _basic(in_channels: int, channels: int, stride: int = 1) -> Residual:
    """Two 3x3 convolutions."""
    first = _normed(in_channels, channels, 3, stride)
    layers = [*first, nn.ReLU(inplace=True), *_normed(channels, channels, 3)]
    return _residual(in_channels, channels, stride, layers)


def _bottleneck(in_channels: int, channels: int, stride: int = 1) -> Residual:
    """1x1, 3x3 and 1x1 convolutions; twice `channels` come out."""
    layers = [
        *_normed(in_channels, channels, 1),
        nn.ReLU(inplace=True),
        *_normed(channels, channels, 3, stride),
        nn.ReLU(inplace=True),
        *_normed(channels, 2 * channels, 1),
    ]
    return _residual(in_channels, 2 * channels, stride, layers)


def _stage(in_channels: int, channels: int, blocks: int, stride: int = 1) -> list[nn.Module]:
    """Basic blocks with a ReLU between each two."""
    layers: list[nn.Module] = [_basic(in_channels, channels, stride)]
    for _ in range(blocks - 1):
        layers += [nn.ReLU(inplace=True), _basic(channels, channels)]
    return layers
