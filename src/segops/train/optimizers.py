"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from segops.params import TrainParams


def build_optimizer(parameters: Iterable[nn.Parameter], params: TrainParams) -> Optimizer:
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
