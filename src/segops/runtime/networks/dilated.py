"""Networks of a dilated encoder and a head, as in MMSegmentation's `D8` configurations.

With encoder `tu-resnet50c` (ResNetV1c-50: a stem of three 3x3 convolutions of 32, 32 and 64
channels) and output stride 8 they are, layer by layer, MMSegmentation's `fcn_r50-d8`,
`pspnet_r50-d8`, `deeplabv3_r50-d8` and `deeplabv3plus_r50-d8`: strides (1, 2, 1, 1), dilations
(1, 1, 2, 4), the first block of a dilated stage with half its dilation (`contract_dilation`).
Any other encoder that can be dilated works too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from .heads import ASPPHead, FCNHead, PSPHead, SeparableASPPHead, resize

FINE = 2
"""Index of the features of stride 4 in an encoder's output."""


class DilatedNetwork(nn.Module):
    """A dilated encoder, a head on its coarsest features, logits upsampled to the image.

    Args:
        encoder_name: An encoder that can be dilated to the output stride.
        encoder_weights: As of :func:`segmentation_models_pytorch.encoders.get_encoder`.
        output_stride: Stride of the encoder's coarsest features: 8, 16 or 32.
        encoder_options: Further arguments of a timm encoder.
    """

    levels: Sequence[int] = (-1,)

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        output_stride: int,
        encoder_options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.encoder = get_encoder(
            encoder_name,
            in_channels=3,
            depth=5,
            weights=encoder_weights,
            output_stride=output_stride,
            **encoder_options,
        )
        self.head: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: float32 of shape (N, 3, H, W), normalised; H and W are multiples of the
                output stride.

        Returns:
            float logits of shape (N, C, H, W).
        """
        return self.decode(self.encoder(images), images.shape[-2:])

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) of the encoder's output for an image of that size."""
        return resize(self.head(*(features[level] for level in self.levels)), size)


class DilatedFCN(DilatedNetwork):
    """FCN head: two 3x3 convolutions, and a third on their output joined with the features."""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        output_stride: int = 8,
        channels: int = 512,
        dropout: float = 0.1,
        **encoder_options: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, output_stride, encoder_options)
        self.head = FCNHead(self.encoder.out_channels[-1], channels, classes, dropout=dropout)


class DilatedPSPNet(DilatedNetwork):
    """Pyramid pooling head."""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        output_stride: int = 8,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        **encoder_options: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, output_stride, encoder_options)
        self.head = PSPHead(self.encoder.out_channels[-1], channels, classes, pool_scales, dropout)


class DilatedDeepLabV3(DilatedNetwork):
    """ASPP head."""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        output_stride: int = 8,
        channels: int = 512,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.1,
        **encoder_options: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, output_stride, encoder_options)
        self.head = ASPPHead(self.encoder.out_channels[-1], channels, classes, dilations, dropout)


class DilatedDeepLabV3Plus(DilatedNetwork):
    """Separable ASPP head with a decoder on features of stride 4."""

    levels = (-1, FINE)

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        output_stride: int = 8,
        channels: int = 512,
        reduced_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.1,
        **encoder_options: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, output_stride, encoder_options)
        fine, coarse = self.encoder.out_channels[FINE], self.encoder.out_channels[-1]
        self.head = SeparableASPPHead(
            coarse, fine, channels, classes, reduced_channels, dilations, dropout
        )
