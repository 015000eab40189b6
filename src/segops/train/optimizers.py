"""Optimisers by name, and the groups of parameters that they treat alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter

FACTOR = "lr_factor"
"""Key of a parameter group: its learning rate as a multiple of the schedule's."""

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


def build_optimizer(parameters: Parameters, params: TrainParams) -> Optimizer:
    """The optimiser that ``params.yaml`` asks for, in torch's fused implementation.

    All parameters decay alike, biases and norms included, as in the published recipes. The decay
    of `adam` is the L2 term of Kingma and Ba (ICLR 2015) as torch has it, that of `adamw` is
    decoupled (Loshchilov and Hutter, ICLR 2019).
    """
    lr, decay = params.lr, params.weight_decay
    if params.optimizer == "sgd":
        return SGD(parameters, lr, momentum=params.momentum, weight_decay=decay, fused=True)
    if params.optimizer == "adam":
        return Adam(parameters, lr, weight_decay=decay, fused=True)
    return AdamW(parameters, lr, weight_decay=decay, fused=True)


def parameter_groups(network: Segmenter, params: TrainParams) -> list[dict[str, Any]]:
    """One group; two, the encoder's the second, where ``train.encoder_lr_factor`` is not 1.

    Raises:
        SegopsError: The network has no encoder and a parameter speaks of it.
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
    inside = {id(one) for one in encoder}
    rest = [one for one in network.parameters() if id(one) not in inside]
    return [
        {"params": rest, FACTOR: 1.0},
        {"params": encoder, FACTOR: params.encoder_lr_factor},
    ]


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Give every group its learning rate, `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[FACTOR]


def penalised(network: nn.Module) -> list[nn.Parameter]:
    """What the L1 penalty counts: weights; not biases, nor the scales and shifts of norms."""
    return [one for one in network.parameters() if one.ndim > 1]
