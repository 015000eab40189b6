"""Networks of a vision transformer and a light head on the tokens of its patches.

`linear` is the linear protocol of DINOv2: batch norm and a 1x1 convolution over the tokens of the
last layer, or of the last four side by side, each behind the transformer's final norm. `mlp` is the
head of SegFormer on the tokens of several layers: one linear layer for each, one that joins them,
batch norm and ReLU, then the classifier.

Sources:
    Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision. TMLR 2024, section
    7.4; ``BNHead`` of its published code.
    Xie et al.: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers.
    NeurIPS 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from .heads import classifier, conv_block, resize

TIMM = "tu-"


def timm_name(encoder: str) -> str:
    """The name at timm of an encoder; ValueError where it is none of timm's."""
    if not encoder.startswith(TIMM):
        raise ValueError("it is no vision transformer of timm")
    return encoder.removeprefix(TIMM)


class TokenEncoder(TimmViTEncoder):  # type: ignore[misc]
    """A vision transformer of timm; its features are the tokens of its last layers.

    Each map of features is float32 (N, D, h / patch, w / patch), behind the final norm.
    """

    def __init__(
        self, name: str, weights: Any, in_channels: int, layers: int, **options: Any
    ) -> None:
        super().__init__(
            name,
            pretrained=bool(weights),
            in_channels=in_channels,
            depth=layers,
            output_indices=list(range(-layers, 0)),
            **{"num_classes": 0, "global_pool": "", **options},
        )
        if len(set(self.output_strides)) > 1:
            raise ValueError(f"its layers have strides {self.output_strides}, not those of patches")
        if not hasattr(self.model, "patch_embed"):
            raise ValueError("it has no patches")

    def forward(self, images: Tensor) -> list[Tensor]:
        """The features of each layer, the last one at the end."""
        features: list[Tensor] = self.model.forward_intermediates(
            images, indices=self._output_indices, norm=True, intermediates_only=True
        )
        return features


class TokenNetwork(nn.Module):
    """A vision transformer, a head on its tokens, logits upsampled to the image.

    Args:
        encoder_name: `tu-` and the name of a vision transformer of timm.
        encoder_weights: Whether timm is to load its published weights.
        classes: Number of classes C.
        layers: How many of the last layers the head takes.
        dropout: Probability of dropping a channel before the classifier.
        in_channels: Channels of the images.
        options: Arguments of the head, by `head_options`, and further ones of timm's model.
    """

    head_class: type[nn.Module]
    head_options: tuple[str, ...] = ()

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        layers: int = 1,
        dropout: float = 0.0,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        name = timm_name(encoder_name)
        of_head = {one: options.pop(one) for one in self.head_options if one in options}
        self.encoder = TokenEncoder(name, encoder_weights, in_channels, layers, **options)
        self.head = self.head_class(self.encoder.out_channels, classes, dropout, **of_head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W).

        H and W are multiples of the patch size.
        """
        return self.decode(self.encoder(images), images.shape[-2:])

    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits (N, C, *size) of the encoder's output for an image of that size."""
        return resize(self.head(features), size)


class LinearHead(nn.Module):
    """Batch norm and a 1x1 convolution over the tokens of all layers side by side.

    Args:
        channels: Channels of the tokens of each layer.
        classes: Number of classes C.
        dropout: Probability of dropping a channel before the convolution.
    """

    def __init__(self, channels: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(channels))
        self.dropout = nn.Dropout2d(dropout)
        self.score = classifier(sum(channels), classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, C, h, w) of maps (N, D, h, w)."""
        scores: Tensor = self.score(self.dropout(self.norm(torch.cat(list(features), dim=1))))
        return scores


class MLPHead(nn.Module):
    """A linear layer for the tokens of each layer, one that joins them, then the classifier.

    Args:
        channels: Channels of the tokens of each layer.
        classes: Number of classes C.
        dropout: Probability of dropping a channel before the classifier.
        hidden: Channels of the linear layers.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, dropout: float = 0.0, hidden: int = 256
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(one, hidden, 1) for one in channels)
        self.join = conv_block(hidden * len(channels), hidden, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.score = classifier(hidden, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, C, h, w) of maps (N, D, h, w)."""
        each = [layer(one) for layer, one in zip(self.layers, features, strict=True)]
        scores: Tensor = self.score(self.dropout(self.join(torch.cat(each, dim=1))))
        return scores


class Linear(TokenNetwork):
    """The linear protocol of DINOv2."""

    head_class = LinearHead


class MLP(TokenNetwork):
    """SegFormer's head on the last four layers."""

    head_class = MLPHead
    head_options = ("hidden",)

    def __init__(
        self, encoder_name: str, encoder_weights: Any, classes: int, layers: int = 4, **options: Any
    ) -> None:
        super().__init__(encoder_name, encoder_weights, classes, layers, **options)
