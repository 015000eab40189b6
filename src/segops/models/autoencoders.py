"""Networks that restore what is hidden of an image, so that their encoder learns without masks.

A vision transformer sees only the patches that are not hidden: He et al., "Masked Autoencoders Are
Scalable Vision Learners", CVPR 2022. Any other encoder sees the whole crop with noise and with
hidden squares, and a light decoder on its feature maps restores it: a denoising autoencoder
(Vincent et al., ICML 2008) with the hidden squares of context encoders (Pathak et al., CVPR 2016).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from segops.params.pretrain import PretrainParams
from segops.runtime.errors import SegopsError
from segops.runtime.networks.heads import conv_block
from segops.runtime.networks.segmenter import Segmenter

FINEST = 4
"""Stride of the finest feature maps that the decoder sees."""
HEAD = 32
"""Channels of a head of the decoder's attention."""
LARGEST_PERIOD = 10_000.0


class Autoencoder(nn.Module, ABC):
    """An encoder and a decoder that restores the hidden part of a crop.

    Attributes:
        encoder: The encoder, which is what is learned for.
        cell: Height and width of a hidden rectangle, in pixels.
        cells: Rows and columns of such rectangles in a crop.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, segmenter: Segmenter, params: PretrainParams, cell: tuple[int, int], key: str
    ) -> None:
        super().__init__()
        for side, own in zip(params.crop, cell, strict=True):
            if side % math.lcm(own, segmenter.stride):
                least = math.lcm(own, segmenter.stride)
                raise SegopsError(
                    f"pretrain.crop: {side}; expected multiples of {least}, by the encoder's "
                    f"stride {segmenter.stride} and {key} {own}."
                )
        self.encoder: Any = segmenter.encoder
        self.register_buffer("pixel_mean", segmenter.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", segmenter.pixel_std.clone(), persistent=False)
        self.cell = cell
        self.cells = params.crop[0] // cell[0], params.crop[1] // cell[1]
        number = math.prod(self.cells)
        self.kept = max(1, min(number - 1, round(number * (1 - params.mask_share))))

    def draw(self, count: int) -> Tensor:
        """Draw what is hidden of so many crops, bool (count, cells), from torch's generator.

        Of each crop as many cells are hidden as of each other.
        """
        order = torch.rand(count, math.prod(self.cells)).argsort(dim=1)
        return torch.ones(order.shape, dtype=torch.bool).scatter(1, order[:, : self.kept], False)

    def forward(self, images: Tensor, counted: Tensor, hidden: Tensor) -> Tensor:
        """The loss of a batch, float32 ().

        Args:
            images: uint8 (N, C, h, w), the crops.
            counted: bool (N, h, w), where a crop shows its image and not what lies beyond it.
            hidden: bool (N, cells), as :meth:`draw` draws it.
        """
        normalised = self.normalised(images)
        weights = self.weights(counted, hidden)
        error = (self.errors(normalised, hidden) * weights).sum()
        return error / (weights.sum() * images.shape[1]).clamp(min=1)

    def normalised(self, images: Tensor) -> Tensor:
        """Crops, uint8 (N, C, h, w), as the encoder takes them: float32, mean 0, deviation 1."""
        return (images.float() - self.pixel_mean) / self.pixel_std

    def pixels(self, normalised: Tensor) -> Tensor:
        """Normalised crops as uint8 (N, C, h, w)."""
        return (normalised * self.pixel_std + self.pixel_mean).round().clamp(0, 255).byte()

    def spread(self, hidden: Tensor) -> Tensor:
        """What is hidden by cells, bool (N, cells), by pixels, bool (N, 1, h, w)."""
        grid = hidden.view(len(hidden), 1, *self.cells)
        return grid.repeat_interleave(self.cell[0], 2).repeat_interleave(self.cell[1], 3)

    @abstractmethod
    def errors(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        """Squared errors of the restored crop, summed over channels, of the shape of weights."""

    @abstractmethod
    def weights(self, counted: Tensor, hidden: Tensor) -> Tensor:
        """1 where an error counts, 0 elsewhere."""

    @abstractmethod
    def restore(self, normalised: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder sees of normalised crops, and the restored crops; (N, C, h, w) both."""


class MaskedAutoencoder(Autoencoder):
    """A vision transformer that sees the patches that are not hidden; He et al. 2022.

    The decoder is a light transformer over all patches with fixed position embeddings. The target
    of a hidden patch has mean 0 and deviation 1 over its own pixels (section 4.1 of the paper).
    """

    positions: Tensor

    def __init__(self, segmenter: Segmenter, params: PretrainParams) -> None:
        encoder: Any = segmenter.encoder
        model: Any = encoder.model
        super().__init__(segmenter, params, tuple(model.patch_embed.patch_size), "its patches of")
        width = params.decoder_width
        if width % HEAD:
            raise SegopsError(f"pretrain.decoder_width: {width}; expected a multiple of {HEAD}.")
        self.channels = segmenter.channels
        self.embed = nn.Linear(model.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", position_embeddings(self.cells, width), persistent=False)
        self.blocks = nn.Sequential(
            *(Block(width, width // HEAD, qkv_bias=True) for _ in range(params.decoder_depth))
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, math.prod(self.cell) * self.channels)

    def patches(self, images: Tensor) -> Tensor:
        """Images (N, C, h, w) by patch, (N, cells, patch pixels, C)."""
        columns = functional.unfold(images, self.cell, stride=self.cell)
        split = columns.view(len(images), images.shape[1], math.prod(self.cell), -1)
        return split.permute(0, 3, 2, 1)

    def encode(self, normalised: Tensor, kept: Tensor) -> Tensor:
        """Tokens (N, kept, D) of the patches that are not hidden; `kept` are indices (N, kept)."""
        model = self.encoder.model
        tokens = model._pos_embed(model.patch_embed(normalised))
        prefix, own = tokens.split([model.num_prefix_tokens, math.prod(self.cells)], dim=1)
        seen = own.gather(1, kept[..., None].expand(-1, -1, own.shape[2]))
        found: Tensor = model.norm(model.blocks(model.norm_pre(torch.cat([prefix, seen], dim=1))))
        return found[:, model.num_prefix_tokens :]

    def predicted(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        """The predicted targets of all patches, (N, cells, patch pixels, C)."""
        kept = (~hidden).int().argsort(dim=1, descending=True, stable=True)[:, : self.kept]
        tokens = self.embed(self.encode(normalised, kept))
        places = kept[..., None].expand(-1, -1, tokens.shape[2])
        whole = self.mask_token.to(tokens.dtype).expand(len(hidden), hidden.shape[1], -1)
        tokens = whole.scatter(1, places, tokens) + self.positions
        values: Tensor = self.predict(self.norm(self.blocks(tokens)))
        return values.float().view(*hidden.shape, -1, self.channels)

    def errors(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        """As of the base class: (N, cells, patch pixels)."""
        own = self.patches(normalised)
        target = (own - _mean(own)) / _deviation(own)
        return (self.predicted(normalised, hidden) - target).square().sum(dim=3)

    def weights(self, counted: Tensor, hidden: Tensor) -> Tensor:
        """As of the base class: (N, cells, patch pixels), 1 in the hidden patches."""
        inside = self.patches(counted[:, None].float())[..., 0]
        return inside * hidden[..., None]

    @torch.no_grad()
    def restore(self, normalised: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As of the base class; a hidden patch takes brightness and contrast of the original."""
        own = self.patches(normalised)
        found = self.predicted(normalised, hidden) * _deviation(own) + _mean(own)
        whole = torch.where(hidden[..., None, None], found, own)
        columns = whole.permute(0, 3, 2, 1).flatten(1, 2)
        size = normalised.shape[-2:]
        restored = functional.fold(columns, size, self.cell, stride=self.cell)
        return normalised.masked_fill(self.spread(hidden), 0), restored


class ConvolutionalAutoencoder(Autoencoder):
    """An encoder of feature maps; the decoder joins the maps from the coarsest to the finest.

    The maps before a stride of `FINEST` are left out, since they would hand noise and colours on.
    """

    def __init__(self, segmenter: Segmenter, params: PretrainParams) -> None:
        block = params.mask_block
        super().__init__(segmenter, params, (block, block), "pretrain.mask_block")
        self.noise = params.noise
        width, channels = params.decoder_width, segmenter.channels
        with torch.no_grad():
            segmenter.eval()
            maps = self._maps(torch.zeros(1, channels, *params.crop))
            segmenter.train()
        self.coarsest = conv_block(maps[-1].shape[1], width, 1)
        self.lateral = nn.ModuleList(nn.Conv2d(one.shape[1], width, 1) for one in maps[:-1])
        self.join = nn.ModuleList(conv_block(width, width, 3) for _ in maps[:-1])
        self.scale = params.crop[0] // maps[0].shape[2]
        self.predict = nn.Conv2d(width, channels * self.scale**2, 1)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The encoder's feature maps, the finest first, (N, D, h / stride, w / stride)."""
        found = self.encoder(images)
        maps = found[0] if isinstance(found, tuple) else found
        used = [one for one in maps if one.shape[1] and images.shape[2] // one.shape[2] >= FINEST]
        return used or list(maps[-1:])

    def _corrupted(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        noisy = normalised + self.noise * torch.randn_like(normalised)
        return noisy.masked_fill(self.spread(hidden), 0)

    def _decoded(self, seen: Tensor) -> Tensor:
        *finer, coarsest = self._maps(seen)
        joined = self.coarsest(coarsest)
        for lateral, join, one in zip(
            reversed(self.lateral), reversed(self.join), reversed(finer), strict=True
        ):
            joined = join(functional.interpolate(joined, one.shape[-2:]) + lateral(one))
        return functional.pixel_shuffle(self.predict(joined), self.scale).float()

    def errors(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        """As of the base class: (N, h, w)."""
        restored = self._decoded(self._corrupted(normalised, hidden))
        return (restored - normalised).square().sum(dim=1)

    def weights(self, counted: Tensor, hidden: Tensor) -> Tensor:
        """As of the base class: (N, h, w), 1 where the crop was hidden or got noise."""
        return (counted if self.noise else counted & self.spread(hidden)[:, 0]).float()

    @torch.no_grad()
    def restore(self, normalised: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As of the base class."""
        seen = self._corrupted(normalised, hidden)
        return seen, self._decoded(seen)


def build_autoencoder(
    segmenter: Segmenter, architecture: str, params: PretrainParams
) -> Autoencoder:
    """The autoencoder of a network's encoder, in training mode.

    Raises:
        SegopsError: The network has no encoder, or the crop does not fit it.
    """
    encoder = segmenter.encoder
    if encoder is None:
        raise SegopsError(
            f"segops pretrain: {architecture} has no encoder of timm or torchvision. "
            "Choose another model.architecture."
        )
    if isinstance(encoder, TimmViTEncoder) and isinstance(encoder.model, VisionTransformer):
        return MaskedAutoencoder(segmenter, params)
    return ConvolutionalAutoencoder(segmenter, params)


def position_embeddings(cells: tuple[int, int], width: int) -> Tensor:
    """Sines and cosines of the rows and columns of a grid, float32 (1, cells, width).

    Half of the channels tell the row, half the column (He et al. 2022, appendix A.1); `width` is a
    multiple of 4.
    """
    rate = LARGEST_PERIOD ** -(torch.arange(width // 4) / (width // 4))
    parts = []
    for places in torch.meshgrid(*(torch.arange(side) for side in cells), indexing="ij"):
        angles = places.flatten()[:, None] * rate
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)[None]


def _mean(patches: Tensor) -> Tensor:
    return patches.mean(dim=(2, 3), keepdim=True)


def _deviation(patches: Tensor) -> Tensor:
    return (patches.var(dim=(2, 3), keepdim=True) + 1e-6).sqrt()


def encoder_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """An encoder's weights on the CPU, by the names that timm or torchvision give them."""
    state = encoder.state_dict()
    prefix = "model." if all(name.startswith("model.") for name in state) else ""
    return {
        name.removeprefix(prefix): one.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, one in state.items()
    }
