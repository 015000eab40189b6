"""Weights of EoMT as transformers names them, under our network's names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

log = logging.getLogger("segops")

_NAMES = (
    (r"embeddings\.cls_token", "encoder.model.cls_token"),
    (r"embeddings\.register_tokens", "encoder.model.reg_token"),
    (r"embeddings\.position_embeddings\.weight", "encoder.model.pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "encoder.model.patch_embed.proj."),
    (r"layers\.(\d+)\.attention\.out_proj\.", r"encoder.model.blocks.\1.attn.proj."),
    (r"layers\.(\d+)\.attention\.", r"encoder.model.blocks.\1.attn."),
    (r"layers\.(\d+)\.layer_scale([12])\.lambda1", r"encoder.model.blocks.\1.ls\2.gamma"),
    (r"layers\.(\d+)\.", r"encoder.model.blocks.\1."),
    (r"layernorm\.", "encoder.model.norm."),
    (r"query\.weight", "queries"),
    (r"class_predictor\.", "class_head."),
    (r"mask_head\.fc1\.", "mask_head.0."),
    (r"mask_head\.fc2\.", "mask_head.2."),
    (r"mask_head\.fc3\.", "mask_head.4."),
    (r"upscale_block\.block\.(\d+)\.conv1\.", r"upscale.\1.0."),
    (r"upscale_block\.block\.(\d+)\.conv2\.", r"upscale.\1.2."),
    (r"upscale_block\.block\.(\d+)\.layernorm2d\.", r"upscale.\1.3."),
)
_LEFT_OUT = ("attn_mask_probs", "criterion.empty_weight")
_PARTS = ("q_proj", "k_proj", "v_proj")
_ENCODER = "encoder."


def is_of_transformers(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds EoMT as transformers publishes it."""
    return {"query.weight", "class_predictor.weight"} <= tensors.keys()


def load_heads(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load queries, mask head, class head and upscaling, if they are there, and log it.

    What differs in the number of queries or of classes keeps its random start.

    Args:
        network: Our ``EoMT``.
        tensors: Its tensors, as :func:`from_transformers` names them.
        source: Where the weights come from, for the log.
    """
    own = {name: one for name, one in network.state_dict().items() if not name.startswith(_ENCODER)}
    fitting = {
        name: tensors[name]
        for name, one in own.items()
        if name in tensors and tensors[name].shape == one.shape
    }
    if not fitting:  # a file of the encoder alone
        return
    network.load_state_dict(fitting, strict=False)
    anew = ", ".join(name for name in own if name not in fitting) or "nothing"
    log.info("%s: %d tensors of queries and heads; anew: %s.", source, len(fitting), anew)


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ``EomtForUniversalSegmentation``, under the names of our ``EoMT``.

    Args:
        tensors: Its state dict, as published files hold it.

    Returns:
        The same tensors, in which the projections of query, key and value of a block are one, as
        timm keeps them. A name that the network does not have stays as it is.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _LEFT_OUT:
            continue
        new = _renamed(name)
        renamed[new] = tensor[None] if new.endswith("pos_embed") else tensor
    for name in [one for one in renamed if _PARTS[0] in one]:
        parts = [name.replace(_PARTS[0], part) for part in _PARTS]
        if all(part in renamed for part in parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace(_PARTS[0], "qkv")] = joined
    return renamed


def _renamed(name: str) -> str:
    for pattern, ours in _NAMES:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", ours, name)
    return name
