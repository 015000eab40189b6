"""Output stride and dropout as options of each architecture."""

from __future__ import annotations

from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional

from ..errors import SegopsError

TOKENS = ("linear", "mlp")
"""Architectures whose head takes the tokens of a vision transformer."""

MASKS = "eomt"
"""The architecture whose queries, each a mask and its class, run through a vision transformer."""

OF_PATCHES = ("dpt", *TOKENS, MASKS)
"""Architectures on a vision transformer of timm, whose stride is its patch size."""

WITHOUT_ENCODER = ("pidnet", "plain_cnn")
"""Architectures that are whole networks, without an encoder to choose."""

_DROPOUT_OPTION = {
    "deeplabv3": "decoder_aspp_dropout",
    "deeplabv3plus": "decoder_aspp_dropout",
    "fpn": "decoder_dropout",
    "pspnet": "psp_dropout",
}
"""The option of SMP's networks that have dropout before the classifier."""

# The decoders of the last four double the resolution from stage to stage, so no two stages may
# share a stride.
_STRIDE_OPTION: dict[str, tuple[str, tuple[int, ...]]] = {
    "deeplabv3": ("encoder_output_stride", (8, 16)),
    "deeplabv3plus": ("encoder_output_stride", (8, 16)),
    "pan": ("encoder_output_stride", (16, 32)),
    **dict.fromkeys(WITHOUT_ENCODER, ("output_stride", (8,))),
    **dict.fromkeys(OF_PATCHES, ("output_stride", ())),
    **dict.fromkeys(("unetplusplus", "manet", "linknet", "fpn"), ("output_stride", (32,))),
}
"""The option for the stride and the strides that it takes, where not all do."""


def any_size_options(architecture: str, encoder: str) -> dict[str, Any]:
    """Keyword arguments with which a transformer of timm takes images of any size."""
    if architecture in OF_PATCHES:
        return {"dynamic_img_size": True}
    if encoder.startswith("tu-swin"):
        return {"strict_img_size": False}
    return {}


def stride_options(architecture: str, stride: int, given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that give an architecture's encoder an output stride of 8, 16 or 32.

    Raises:
        SegopsError: The architecture cannot have that stride, or the user's options (`given`) set
            it too.
    """
    name, strides = _STRIDE_OPTION.get(architecture, ("output_stride", (8, 16, 32)))
    if stride not in strides:
        raise SegopsError(
            f"model.output_stride: {architecture} cannot have output stride {stride}"
            + (
                f", only {' or '.join(map(str, strides))}"
                if strides
                else ": a transformer's stride is its patch size"
            )
            + ". Set it to null, or choose an architecture that can, such as dilated_deeplabv3, "
            "deeplabv3 or unet."
        )
    if architecture in WITHOUT_ENCODER:
        return {}
    _refuse_twice("output_stride", name, given)
    options = {name: stride}
    if architecture == "pspnet":  # its own encoder ends at depth 3, at stride 8 without dilation
        return {"encoder_depth": 5, "upsampling": stride} | options
    return options


def dropout_options(architecture: str, dropout: float, given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that set an architecture's own dropout; empty where it has none to set.

    Raises:
        SegopsError: The user's options also set the dropout, or the architecture has none.
    """
    if architecture == MASKS:
        raise SegopsError(f"model.dropout: {MASKS} has no dropout; set it to null.")
    name = _DROPOUT_OPTION.get(architecture)
    if architecture.startswith(("fcn", "dilated_", *WITHOUT_ENCODER, *TOKENS)):
        name = "dropout"
    if name is None:
        return {}
    _refuse_twice("dropout", name, given)
    return {name: dropout}


def _refuse_twice(key: str, option: str, given: dict[str, Any]) -> None:
    if option in given:
        raise SegopsError(
            f"model.{key} and model.options.{option} say the same thing; remove one of them."
        )


def put_dropout(network: nn.Module, dropout: float) -> None:
    """Set the dropout before the classifier of a network of SMP that has no option for it."""
    head: Any = network.segmentation_head
    if isinstance(network, smp.DPT):
        next(layer for layer in head.head if isinstance(layer, nn.Dropout)).p = dropout
    else:  # a hook, because a further layer would change the names in the state dict
        head[0].register_forward_pre_hook(partial(_drop_channels, dropout))


def _drop_channels(dropout: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return functional.dropout2d(inputs[0], dropout, layer.training)
