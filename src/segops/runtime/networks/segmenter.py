"""The wrapper of every network: it takes raw images of any size and returns logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from .heads import resize
from .mask_queries import MaskQueries

_FROZEN = "_frozen_for_one_value"


class Segmenter(nn.Module):
    """A segmentation network together with its normalisation and padding.

    The weights are those of `network`; mean and standard deviation belong to the model's
    specification and are not part of the state dict.

    In training mode a batch norm layer that sees a single value per channel (one image, pooled to
    1x1, as in the image-level branch of ASPP) has no variance to compute and torch refuses it.
    Such a layer uses its running statistics for that call without changing them.

    Args:
        network: Takes float32 images (N, B, h, w), normalised, with h and w multiples of `stride`
            and at least `min_side`; returns logits (N, C, h, w).
        mean: Mean of each of the B channels of the images, in 0..1; three are RGB.
        std: Standard deviation of each, in 0..1.
        stride: Sides of the padded image are multiples of this, in pixels.
        min_side: Shortest side of the padded image, in pixels.
        auxiliary: Head on the encoder's next-to-last features, for a further loss in training. It
            is called by :meth:`forward` only, so that wrappers (DDP, `torch.compile`) see it.
    """

    # Not `mean` and `std`: ONNX export names values after buffers, and operators take these names.
    pixel_mean: Tensor
    pixel_std: Tensor
    auxiliary: nn.Module | None

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        stride: int,
        min_side: int = 1,
        auxiliary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = auxiliary
        self.stride = stride
        self.min_side = min_side
        for name, values in (("pixel_mean", mean), ("pixel_std", std)):
            scaled = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) * 255
            self.register_buffer(name, scaled, persistent=False)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(_freeze_on_single_value)
                module.register_forward_hook(_thaw)

    @property
    def channels(self) -> int:
        """B, the channels of an image."""
        return self.pixel_mean.shape[1]

    @property
    def encoder(self) -> nn.Module | None:
        """The network's encoder; None where it has none (plain_cnn, pidnet)."""
        return getattr(self.network, "encoder", None)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the encoder, if there is one."""
        if self.encoder is not None:
            yield from self.encoder.parameters()

    def forward(
        self, images: Tensor, with_auxiliary: bool = False, as_queries: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | MaskQueries:
        """Compute the logits of raw images.

        Images are padded at the bottom and on the right with the mean colour, which keeps the pixel
        grid in place; the logits are cropped back.

        Args:
            images: uint8 or float images in 0..255, shape (N, B, H, W).
            with_auxiliary: Also compute the auxiliary head's logits.
            as_queries: Return what the network's queries say, in place of logits, for a loss on
                masks; wrappers see it here, as they do the auxiliary head.

        Returns:
            Logits of shape (N, C, H, W), float32, or bfloat16 under autocast; with
            `with_auxiliary` a pair of these, the auxiliary head's second; with `as_queries` the
            queries' masks, of the padded images, and classes.

        Raises:
            ValueError: `images` has another shape, or there is no auxiliary head, or no query.
        """
        if with_auxiliary and self.auxiliary is None:
            raise ValueError("with_auxiliary: this network has no auxiliary head")
        if as_queries:
            network: Any = self.network
            if not hasattr(network, "mask_queries"):
                raise ValueError("as_queries: this network has no queries")
            queries: MaskQueries = network.mask_queries(self._normalised(images))
            return queries
        height, width = images.shape[-2:]
        normalised = self._normalised(images)
        if not with_auxiliary:
            logits: Tensor = self.network(normalised)
            return logits[..., :height, :width]
        both = self._with_auxiliary(normalised)
        return both[0][..., :height, :width], both[1][..., :height, :width]

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """The encoder's output for images as :meth:`forward` takes them, padded the same way."""
        network: Any = self.network
        features: Sequence[Tensor] = network.encoder(self._normalised(images))
        return features

    def from_features(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The logits (N, C, H, W) of images of `size`, (H, W), by their :meth:`features`.

        The network's own `decode` makes them, which not every architecture has.
        """
        network: Any = self.network
        padded = [side + self._missing(side) for side in size]
        logits: Tensor = network.decode(features, padded)
        return logits[..., : size[0], : size[1]]

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (N, B, H, W) in 0..255, normalised and padded.

        Raises:
            ValueError: `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images: expected shape (N, {self.channels}, H, W), found {tuple(images.shape)}"
            )
        normalised = (images.float() - self.pixel_mean) / self.pixel_std
        below, right = (self._missing(side) for side in images.shape[-2:])
        if below or right:
            normalised = functional.pad(normalised, (0, right, 0, below))
        return normalised

    def _with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and auxiliary logits of one pass through the encoder."""
        network: Any = self.network
        assert self.auxiliary is not None
        features = network.encoder(images)
        # Encoders of DPT return the tokens beside the features.
        maps = features[0] if isinstance(features, tuple) else features
        auxiliary = resize(self.auxiliary(maps[-2]), images.shape[-2:])
        if hasattr(network, "decode"):
            return network.decode(features, images.shape[-2:]), auxiliary
        decoder_inputs = features if isinstance(features, tuple) else (features,)
        return network.segmentation_head(network.decoder(*decoder_inputs)), auxiliary

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
