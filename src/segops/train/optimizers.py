"""Optimisers by name, and the parameter groups of the decoder and the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
    """A single group, or the rest and the encoder where ``train.encoder_lr_factor`` is not 1.

    Raises:
        SegopsError: The network has no encoder and a parameter refers to it.
    """
    if network.encoder is None:
        for key, neutral in (("encoder_lr_factor", 1.0), ("freeze_encoder_epochs", 0)):
            if getattr(params, key) != neutral:
                raise SegopsError(
                    f"train.{key}: {getattr(params, key)}, but this network has no encoder. "
                    f"Set it to {neutral}, or choose another model.architecture."
                )
    if params.encoder_lr_factor == 1:
        return [{"params": list(network.parameters()), FACTOR: 1.0}]
    encoder = list(network.encoder_parameters())
    inside = {id(weight) for weight in encoder}
    rest = [weight for weight in network.parameters() if id(weight) not in inside]
    return [
        {"params": rest, FACTOR: 1.0},
        {"params": encoder, FACTOR: params.encoder_lr_factor},
    ]
