"""The smallest network of each architecture: timm's encoders for tests, narrow decoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segops.runtime.networks.options import OF_PATCHES
from segops.runtime.networks.zoo import ModelSpec

CLASSES = 5
NARROW: dict[str, dict[str, Any]] = {
    "unet": {"decoder_channels": [32, 16, 16, 8, 8]},
    "unetplusplus": {"decoder_channels": [32, 16, 16, 8, 8]},
    "manet": {"decoder_channels": [32, 16, 16, 8, 8], "decoder_pab_channels": 16},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 64},
    "pspnet": {"psp_out_channels": 16},
    "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {"decoder_channels": 16},
    "upernet": {"decoder_channels": 16},
    "segformer": {"decoder_segmentation_channels": 16},
    "linear": {"layers": 3},
    "mlp": {"layers": 3, "hidden": 16},
    "eomt": {"queries": 8, "blocks": 2},
    "dpt": {"decoder_intermediate_channels": [16] * 4, "decoder_fusion_channels": 16},
    "pidnet": {"width": 8, "pyramid": 8, "channels": 16},
    "plain_cnn": {"width": 8},
}


def small(architecture: str, **further: Any) -> ModelSpec:
    """The specification of a small network; `further` are fields of it."""
    options = {"channels": 16} if architecture.startswith("dilated_") else {}
    encoder = "tu-test_vit" if architecture in OF_PATCHES else "tu-test_resnet"
    return ModelSpec(architecture, encoder, CLASSES, NARROW.get(architecture, options), **further)


def wake(network: nn.Module) -> None:
    """Give convolutions that start at zero, as the score layers of FCN do, some weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight)


def random_images(count: int, height: int, width: int) -> Tensor:
    """uint8 images (count, 3, height, width), the same ones at every call."""
    generator = torch.Generator().manual_seed(5)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
