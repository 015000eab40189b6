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


class DilatedNetwork(nn.Module):
    """A dilated encoder, a head on its features, logits upsampled to the image.

    Args:
        encoder_name: An encoder that can be dilated to the output stride.
        encoder_weights: As of :func:`segmentation_models_pytorch.encoders.get_encoder`.
        classes: Number of classes C.
        output_stride: Stride of the encoder's coarsest features: 8, 16 or 32.
        in_channels: Channels of the images.
        options: Arguments of the head, by `head_options`, and further ones of a timm encoder.
    """

    head_class: type[nn.Module]
    head_options: tuple[str, ...] = ("channels", "dropout")
    levels: tuple[int, ...] = (-1,)
    """Indices of the encoder's features that the head takes."""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        output_stride: int = 8,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        of_head = {name: options.pop(name) for name in self.head_options if name in options}
        self.encoder = get_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=5,
            weights=encoder_weights,
            output_stride=output_stride,
            **options,
        )
        channels = (self.encoder.out_channels[level] for level in self.levels)
        self.head = self.head_class(*channels, classes=classes, **of_head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W).

        H and W are multiples of the output stride.
        """
        return self.decode(self.encoder(images), images.shape[-2:])

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) of the encoder's output for an image of that size."""
        return resize(self.head(*(features[level] for level in self.levels)), size)


class DilatedFCN(DilatedNetwork):
    """FCN head: two 3x3 convolutions, and a third on their output joined with the features."""

    head_class = FCNHead


class DilatedPSPNet(DilatedNetwork):
    """Pyramid pooling head."""

    head_class = PSPHead
    head_options = (*DilatedNetwork.head_options, "pool_scales")


class DilatedDeepLabV3(DilatedNetwork):
    """ASPP head."""

    head_class = ASPPHead
    head_options = (*DilatedNetwork.head_options, "dilations")


class DilatedDeepLabV3Plus(DilatedNetwork):
    """Separable ASPP head with a decoder on features of stride 4."""

    head_class = SeparableASPPHead
    head_options = (*DilatedNetwork.head_options, "dilations", "reduced_channels")
    levels = (-1, 2)
