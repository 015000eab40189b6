"""The wrapper that gives every network one interface: raw images of any size in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

_FROZEN = "_frozen_for_one_value"


class Segmenter(nn.Module):
    """A segmentation network together with its normalisation and padding.

    The weights are those of `network`; mean and standard deviation belong to the model's
    specification and are not part of the state dict.

    In training mode a batch norm layer that sees a single value per channel (one image, pooled to
    1x1, as in the image-level branch of ASPP) has no variance to compute and torch refuses it.
    Such a layer uses its running statistics for that call and leaves them as they are.

    Args:
        network: Takes float32 images (N, 3, h, w), normalised, with h and w multiples of `stride`
            and at least `min_side`; returns logits (N, C, h, w).
        mean: Per-channel mean of the images, in 0..1, RGB.
        std: Per-channel standard deviation of the images, in 0..1, RGB.
        stride: Sides of the padded image are multiples of this, in pixels.
        min_side: Shortest side of the padded image, in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        stride: int,
        min_side: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.min_side = min_side
        for name, values in (("mean", mean), ("std", std)):
            scaled = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) * 255
            self.register_buffer(name, scaled, persistent=False)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(_freeze_on_single_value)
                module.register_forward_hook(_thaw)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of raw images.

        Images are padded at the bottom and on the right with the mean colour, so that the pixel
        grid stays where it is; the logits are cropped back.

        Args:
            images: uint8 or float images in 0..255, RGB, shape (N, 3, H, W).

        Returns:
            Logits of shape (N, C, H, W), float32, or bfloat16 under autocast.

        Raises:
            ValueError: `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape (N, 3, H, W), found {tuple(images.shape)}")
        height, width = images.shape[-2:]
        normalised = (images.float() - self.mean) / self.std
        below, right = self._missing(height), self._missing(width)
        if below or right:
            normalised = functional.pad(normalised, (0, right, 0, below))
        logits: Tensor = self.network(normalised)
        return logits[..., :height, :width]

    def _missing(self, side: int) -> int:
        wanted = max(side, self.min_side)
        return wanted + -wanted % self.stride - side


def _freeze_on_single_value(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0]
    if module.training and values.numel() == values.shape[1]:
        module.training = False
        setattr(module, _FROZEN, True)


def _thaw(module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
    if getattr(module, _FROZEN, False):
        module.training = True
        setattr(module, _FROZEN, False)
