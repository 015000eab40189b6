"""EoMT: a vision transformer whose last blocks also process queries, each a mask and its class.

The network is the transformer and little more. Queries join the tokens before the last blocks. At
the end a linear layer gives the class of each query, and a mask is the product of a query, behind
a head of three layers, with the upsampled tokens of the patches.

In training the queries are also judged before each of the last blocks, and in such a block a query
attends only to the patches inside its mask so far. This masking is withdrawn block by block, the
first block first, so that the finished network works without it.

Source:
    Kerssies et al.: Your ViT is Secretly an Image Segmentation Model. CVPR 2025,
    https://arxiv.org/abs/2503.19108, section 3; the schedule of the masking is that of the
    published configurations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .heads import resize
from .mask_queries import MaskQueries, class_logits
from .tokens import TokenEncoder, timm_name

ANNEALING_POWER = 0.9
"""Exponent of the polynomial by which a block's share of masked queries falls to 0."""

Tokens = tuple[list[Tensor], Tensor, Tensor | None]


class FirstBlocks(TokenEncoder):
    """A vision transformer of timm, of which :meth:`forward` runs all but the last blocks."""

    def __init__(
        self, name: str, weights: Any, in_channels: int, blocks: int, **options: Any
    ) -> None:
        super().__init__(name, weights, in_channels, layers=1, **options)
        if not isinstance(self.model, VisionTransformer | Eva):
            raise ValueError("its blocks do not take further tokens and a mask of the attention")
        if not 1 <= blocks <= len(self.model.blocks):
            raise ValueError(f"blocks: {blocks}, expected 1 to {len(self.model.blocks)}, its own")
        self.first = len(self.model.blocks) - blocks

    def forward(self, images: Tensor) -> Tokens:  # type: ignore[override]
        """The tokens before the last blocks.

        Returns:
            A list with the map of the patches' tokens, (N, D, h, w); the tokens before them,
            (N, P, D); and the rotations of rotary position embeddings, None where there are none.
        """
        model: Any = self.model
        embedded = model._pos_embed(model.patch_embed(images))
        tokens, rotations = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens = self.through(model.norm_pre(tokens), range(self.first), rotations)
        prefix = tokens[:, : model.num_prefix_tokens]
        patches = tokens[:, model.num_prefix_tokens :]
        grid = model.patch_embed.dynamic_feat_size(images.shape[-2:])
        return [_map(patches, grid)], prefix, rotations

    def through(
        self,
        tokens: Tensor,
        blocks: Sequence[int],
        rotations: Tensor | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run blocks by their numbers; `mask`, bool (N, 1, T, T), is true where T attends to T."""
        for number in blocks:
            options: dict[str, Any] = {} if mask is None else {"attn_mask": mask}
            if rotations is not None:
                # Some transformers have rotations of their own for each block.
                of_block = getattr(self.model, "rope_mixed", False)
                options["rope"] = rotations[number] if of_block else rotations
            tokens = self.model.blocks[number](tokens, **options)
        return tokens


class Upscale(nn.Sequential):
    """Twice the height and width: transposed convolution, GELU, depthwise 3x3, layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            LayerNorm2d(channels),
        )


class EoMT(nn.Module):
    """The Encoder-only Mask Transformer.

    Args:
        encoder_name: `tu-` and the name of a vision transformer of timm.
        encoder_weights: Whether timm is to load its published weights.
        classes: Number of classes C.
        queries: Number of queries Q.
        blocks: How many of the transformer's last blocks process them.
        in_channels: Channels of the images.
        options: Further arguments of timm's model.
    """

    mask_shares: Tensor
    """The share of the queries that is masked in each of the last blocks, (blocks,)."""

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: Any,
        classes: int,
        queries: int = 100,
        blocks: int = 4,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        name = timm_name(encoder_name)
        self.encoder = FirstBlocks(name, encoder_weights, in_channels, blocks, **options)
        width, patch = self.encoder.out_channels[-1], self.encoder.output_stride
        upscales = max(1, int(math.log2(patch)) - 2)
        self.cell, uneven = divmod(patch, 2**upscales)
        if uneven:
            raise ValueError(f"its patches of {patch} pixels are no multiple of {2**upscales}")
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.class_head = nn.Linear(width, classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        self.upscale = nn.Sequential(*(Upscale(width) for _ in range(upscales)))
        self.register_buffer("mask_shares", torch.ones(blocks), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W), without masking.

        H and W are multiples of the patch size.
        """
        *_, last = self._predictions(images, masked=False)
        return class_logits(*last, (images.shape[-2], images.shape[-1]))

    def mask_queries(self, images: Tensor) -> MaskQueries:
        """What the queries say before each of the last blocks, and after them, with masking.

        Which queries are masked is drawn anew in each call, a share of :attr:`mask_shares`.
        """
        masks, classes = zip(*self._predictions(images, masked=True), strict=True)
        return MaskQueries(masks, classes, self.cell)

    def anneal(self, progress: float) -> None:
        """Set the shares of masked queries by the share of the training that is done, 0 to 1.

        Of L + 2 equal parts of the training, all queries are masked in the first; in each of the
        next L the share of one block falls to 0; none is masked in the last.
        """
        blocks = len(self.mask_shares)
        parts = progress * (blocks + 2)
        left = [min(max(number + 2 - parts, 0.0), 1.0) for number in range(blocks)]
        shares = [share**ANNEALING_POWER for share in left]
        self.mask_shares.copy_(torch.tensor(shares))

    def _predictions(self, images: Tensor, masked: bool) -> list[tuple[Tensor, Tensor]]:
        """Logits of masks and of classes: with `masked` before each of the last blocks too."""
        (patches,), prefix, rotations = self.encoder(images)
        grid = patches.shape[-2:]
        queries = self.queries.expand(len(images), -1, -1)
        tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2), queries], dim=1)
        if rotations is not None:
            rotations = _without_rotation(rotations, len(self.queries))
        found = []
        for number in range(len(self.mask_shares)):
            mask = None
            if masked:
                found.append(self._predicted(tokens, grid))
                masks, share = found[-1][0], self.mask_shares[number]
                mask = self._attention(masks, grid, tokens.shape[1], share)
            tokens = self.encoder.through(tokens, [self.encoder.first + number], rotations, mask)
        return [*found, self._predicted(tokens, grid)]

    def _predicted(self, tokens: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Logits (N, Q, h, w) of the masks and (N, Q, C + 1) of the classes of all tokens."""
        tokens = self.encoder.model.norm(tokens)
        prefix, count = self.encoder.model.num_prefix_tokens, len(self.queries)
        queries = tokens[:, -count:]
        maps = _map(tokens[:, prefix:-count], grid)
        masks = torch.einsum("nqd,ndhw->nqhw", self.mask_head(queries), self.upscale(maps))
        return masks, self.class_head(queries)

    @torch.no_grad()
    def _attention(self, masks: Tensor, grid: Sequence[int], length: int, share: Tensor) -> Tensor:
        """Which tokens attend to which, bool (N, 1, T, T): masked queries to their patches only."""
        count, prefix = len(self.queries), self.encoder.model.num_prefix_tokens
        inside = resize(masks, grid).flatten(2) > 0
        free = torch.rand(*inside.shape[:2], 1, device=masks.device) >= share
        mask = torch.ones(len(masks), length, length, dtype=torch.bool, device=masks.device)
        mask[:, -count:, prefix:-count] = inside | free
        return mask[:, None]


def _map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Tokens (N, h * w, D) of patches as a map (N, D, h, w)."""
    count, _, width = tokens.shape
    return tokens.transpose(1, 2).reshape(count, width, *grid)


def _without_rotation(rotations: Tensor, count: int) -> Tensor:
    """Rotations with `count` further rows that turn nothing: sines of 0, then cosines of 1."""
    *front, _, both = rotations.shape
    still = rotations.new_zeros(*front, count, both)
    still[..., both // 2 :] = 1
    return torch.cat([rotations, still], dim=-2)
