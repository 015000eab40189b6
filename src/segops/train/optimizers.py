"""Optimisers by name, and the parameter groups of the decoder and the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.models import group_parameters
from torch.optim import SGD, Adam, AdamW, Optimizer

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter

FACTOR = "lr_factor"
"""Key of a parameter group: its learning rate as a multiple of the schedule's."""


def build_optimizer(parameters: Iterable[Any], params: TrainParams) -> Optimizer:
    """The optimiser of ``train.optimizer``, in torch's fused implementation.

    Weight decay applies to all parameters, including biases and norms, as in the published recipes.
    It is the L2 term of Kingma and Ba (ICLR 2015) for `adam`, as torch implements it, and decoupled
    (Loshchilov and Hutter, ICLR 2019) for `adamw`.
    """
    lr, decay = params.lr, params.weight_decay
    if params.optimizer == "sgd":
        return SGD(parameters, lr, momentum=params.momentum, weight_decay=decay, fused=True)
    if params.optimizer == "adam":
        return Adam(parameters, lr, weight_decay=decay, fused=True)
    return AdamW(parameters, lr, weight_decay=decay, fused=True)


def parameter_groups(network: Segmenter, params: TrainParams) -> list[dict[str, Any]]:
    """Groups of parameters with the same learning rate: the rest, and the encoder's.

    All are one group where the encoder learns as the rest does. With ``train.layer_decay`` each
    layer of the encoder is a group (Clark et al.: ELECTRA, ICLR 2020, appendix; layers as timm
    groups them): its last one learns with the encoder's rate, and each with that factor of the
    rate of the one behind it.

    Raises:
        SegopsError: The network has no encoder, or none with layers, and a parameter refers to it.
    """
    if network.encoder is None:
        for key, neutral in (
            ("encoder_lr_factor", 1.0),
            ("freeze_encoder_epochs", 0),
            ("freeze_batch_norm", False),
            ("layer_decay", None),
        ):
            if getattr(params, key) != neutral:
                given = str(getattr(params, key)).lower()  # as YAML spells it
                raise SegopsError(
                    f"train.{key}: {given}, but this network has no encoder. Set it to "
                    f"{'null' if neutral is None else str(neutral).lower()}, or choose another "
                    "model.architecture."
                )
    if params.encoder_lr_factor == 1 and params.layer_decay is None:
        return [{"params": list(network.parameters()), FACTOR: 1.0}]
    encoder = list(network.encoder_parameters())
    inside = {id(weight) for weight in encoder}
    rest = [weight for weight in network.parameters() if id(weight) not in inside]
    return [{"params": rest, FACTOR: 1.0}, *_encoder_groups(network, encoder, params)]


def _encoder_groups(
    network: Segmenter, encoder: list[Any], params: TrainParams
) -> list[dict[str, Any]]:
    if params.layer_decay is None:
        return [{"params": encoder, FACTOR: params.encoder_lr_factor}]
    model: Any = getattr(network.encoder, "model", None)
    if not hasattr(model, "group_matcher"):
        raise SegopsError(
            f"train.layer_decay: {params.layer_decay:g}, but timm knows no layers of this encoder. "
            "Set it to null, or choose a vision transformer of timm, such as "
            "tu-vit_small_patch16_224, with architecture linear, mlp or dpt."
        )
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    groups: dict[int, list[Any]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault(layers.get(name, last), []).append(weight)
    return [
        {
            "params": weights,
            FACTOR: params.encoder_lr_factor * params.layer_decay ** (last - layer),
        }
        for layer, weights in sorted(groups.items())
    ]
