"""Gives a network the smaller layers that pruning left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import SegopsError

Shapes = Mapping[str, Sequence[int | None]]
"""Shapes of tensors by their names; None where pruning left a dimension as the network has it."""


def shrink(network: nn.Module, shapes: Shapes) -> None:
    """Make tensors of a network smaller, and tell their layers of it.

    Which values stay does not matter: weights of these shapes are to be loaded next. The library
    that chose the channels is not needed. `shapes` may come from a file of anyone: nothing becomes
    larger than the network was.

    Args:
        network: The network, as its architecture builds it.
        shapes: The shapes of all tensors that become smaller, by their names in the state dict.

    Raises:
        SegopsError: There is no tensor of a name, or it cannot be cut to its shape.
    """
    modules, tensors = dict(network.named_modules()), network.state_dict()
    for name, shape in shapes.items():
        if name not in tensors or not _fits(shape, tensors[name]):
            raise SegopsError(
                f"pruned_shapes: {name}: {shape!r} does not fit this network, in which it is "
                f"{tuple(tensors[name].shape) if name in tensors else 'not there'}. Set "
                "model.architecture, model.encoder and model.options to those of the pruned model."
            )
        path, _, own = name.rpartition(".")
        cut = tensors[name][tuple(slice(size) for size in shape)].clone()
        held = getattr(modules[path], own)
        is_weight = isinstance(held, nn.Parameter)
        setattr(modules[path], own, nn.Parameter(cut, held.requires_grad) if is_weight else cut)
    for path in {name.rpartition(".")[0] for name in shapes}:
        _tell(modules[path])


def _fits(shape: Any, tensor: Tensor) -> bool:
    return (
        isinstance(shape, list | tuple)
        and len(shape) == tensor.ndim
        and all(
            size is None or (type(size) is int and 1 <= size <= whole)
            for size, whole in zip(shape, tensor.shape, strict=True)
        )
    )


def _tell(module: nn.Module) -> None:
    """Set a layer's numbers of channels to those of its weights."""
    layer: Any = module
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        first, second = layer.weight.shape[:2]
        if layer.groups == layer.in_channels == layer.out_channels:
            layer.groups = first
        transposed = isinstance(module, nn.ConvTranspose2d)
        layer.in_channels = first if transposed else second * layer.groups
        layer.out_channels = second * layer.groups if transposed else first
    elif isinstance(module, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        layer.num_features = len(layer.running_mean)
    elif isinstance(module, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        layer.num_channels = len(layer.weight)
